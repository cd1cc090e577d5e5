/* jobs.js - the operator's page: what runs, what waits, what has ended, and what is wrong. It holds all
 * jobs and shows few: eight queued ones and "9,988 more". Rows never move under a pointer or the focus. */
import { $, $$, about, base, bytes, clock, coarse, confirmed, duration, hostOf, id, make, number, on, percent, plural, put, say, timeElement } from './page.js';
import { ask, listen, logOut, loggedIn } from './operator.js';
import { drawCharts } from './charts.js';
import { loadHealth } from './health.js';
import { openDrawer, drawDrawer, drawnJob } from './drawer.js';
import { filterOutputs, loadOutputs } from './outputs.js';
import { elapsedMs, leftMs, over, sentenceOf, silentMs, stateOf, waitsFor, wordOf } from './view.js';

if (!loggedIn()) logOut();

const LISTS = ['running', 'queued', 'ended'], SHOWN = { running: 50, queued: 8, ended: 14 }, STATS_MS = 5000;
const MOST_ENDED = 5000; // are remembered: a page that is open for weeks grows no further
const jobs = new Map(), heard = new Map(), rows = new Map(); // by id; of rows by list and id
let filter = 'all', words = '', paused = false, skew = 0, stats = {}, loaded = false, opened = Date.now();
let lists = { running: [], queued: [], ended: [] };
const now = () => Date.now() + skew;
const ms = time => time ? Date.parse(time) : 0;
const listOf = job => over(job) ? 'ended' : job.state === 'queued' ? 'queued' : 'running';

/* ---- what is known ---- */

/* What sorting and searching need of each of ten thousand is made once, not at each look. */
function take(job) {
  const before = jobs.get(job.id);
  job.text = before?.text ?? `${job.document_set_id} ${job.server} ${job.id}`.toLowerCase();
  job.at = ms(job.ended_at) || ms(job.started_at) || before?.at || ms(job.accepted_at);
  jobs.set(job.id, job);
  heard.set(job.id, Date.now());
}
function forget(jobId) {
  jobs.delete(jobId);
  heard.delete(jobId);
}
const matches = job => (filter === 'all' || shownState(job) === filter) &&
  (!words || job.text.includes(words));
const shownState = job => { const state = stateOf(job, now()); return state === 'starting' || state === 'publishing' ? 'running' : state; };

function sortJobs() {
  const ended = [...jobs.values()].filter(over);
  if (ended.length > MOST_ENDED) for (const job of ended.sort((a, b) => b.at - a.at).slice(MOST_ENDED)) forget(job.id);
  const next = { running: [], queued: [], ended: [] }, count = { all: jobs.size }, queued = [];
  for (const job of jobs.values()) {
    const state = shownState(job);
    count[state] = (count[state] || 0) + 1;
    if (job.state === 'queued') queued.push(job); else if (matches(job)) next[listOf(job)].push(job);
  }
  queued.sort((a, b) => a.n_ahead_in_queue - b.n_ahead_in_queue || a.at - b.at);
  queued.forEach((job, i) => { job.place = i + 1; });
  next.queued = queued.filter(matches);
  next.running.sort((a, b) => (shownState(b) === 'stalled') - (shownState(a) === 'stalled') || a.at - b.at);
  next.ended.sort((a, b) => b.at - a.at);
  lists = next;
  return count;
}

/* ---- rows ---- */

function newRow(name, job) { // the same seven cells in each list, so that the columns of all agree
  const row = $('template', id(name)).content.firstElementChild.cloneNode(true), [first, set, server, what, , , act] = row.cells;
  row.dataset.id = job.id;
  row.classList.toggle('new', loaded && Date.now() - opened > 1500);
  Object.assign(set.firstChild, { textContent: job.document_set_id, href: new URL(`jobs/${job.id}`, base).href, title: `${job.document_set_id} (${job.id})` });
  if (job.packager) { // another server's: there it can be looked at
    set.firstChild.removeAttribute('href');
    act.firstChild.hidden = true;
  }
  put(server, hostOf(job.server));
  server.title = job.server;
  act.firstChild.setAttribute('aria-label', `${act.textContent.trim()} ${job.document_set_id}`);
  if (name === 'ended') first.append(make('span', { class: 'state', 'data-state': stateOf(job, now()) }, wordOf(stateOf(job, now()))));
  if (name === 'running') $('progress', what).setAttribute('aria-label', `Progress of ${job.document_set_id}`);
  return row;
}
function resultOf(job) {
  if (job.state === 'failed') return sentenceOf(job).sentence;
  if (job.state === 'cancelled') return job.error ? sentenceOf(job).sentence : `At ${percent(job.fraction || 0)}\u00a0%`;
  return job.output?.bytes != null ? bytes(job.output.bytes) : '';
}
function startsIn(job) {
  const minute = (stats.minutes || []).findLast(m => m.run_p50_ms), workers = stats.workers || 1;
  return minute ? about(Math.ceil(job.place / workers) * minute.run_p50_ms / 1000) : '—';
}
function freshen(job, row) {
  const [first, , , what, t1, t2] = row.cells, state = stateOf(job, now());
  put(t1, job.started_at || !over(job) ? duration(elapsedMs(job, now()) / 1000) : '—');
  if (over(job)) {
    put(what, resultOf(job));
    what.title = what.textContent;
    t2.replaceChildren(timeElement(ms(job.ended_at)));
    return;
  }
  if (job.state === 'queued') {
    put(first, number(job.place));
    put(what, waitsFor(job));
    put(t2, startsIn(job));
    return;
  }
  const bar = $('progress', what), chip = $('.state', first), mute = state === 'starting' || state === 'publishing';
  if (mute) bar.removeAttribute('value'); else bar.value = job.fraction || 0;
  bar.dataset.state = chip.dataset.state = state;
  put(chip, wordOf(state));
  put($('span', what), mute ? '' : `${percent(job.fraction || 0)}\u00a0%`);
  put($('small', what), state === 'stalled' ? `Silent for ${coarse(silentMs(job, now()) / 1000)}` : job.packager ? `On ${job.host || job.packager}` : job.message || '');
  put(t2, state === 'stalled' ? '—' : about(leftMs(job, Date.now() - heard.get(job.id)) / 1000));
}

/* A list's rows as they should be, unless somebody is in it: then the changes wait. */
function fill(name, force) {
  const body = $('tbody', id(name)), list = lists[name], shown = list.slice(0, SHOWN[name]), key = job => name + job.id;
  const differ = shown.length !== body.rows.length || shown.some((job, i) => body.rows[i] !== rows.get(key(job)));
  const hold = differ && !force && body.matches(':hover, :focus-within') && !$('dialog[open]');
  if (differ && !hold) {
    const keep = new Set(shown.map(key)), focused = document.activeElement?.closest('tr')?.dataset.id;
    for (const row of [...body.rows]) if (!keep.has(name + row.dataset.id)) rows.delete(name + row.dataset.id);
    body.replaceChildren(...shown.map(job => rows.get(key(job)) || rows.set(key(job), newRow(name, job)).get(key(job))));
    if (focused && document.activeElement === document.body) $(`tr[data-id="${focused}"] a`)?.focus();
  }
  for (const row of body.rows) if (jobs.has(row.dataset.id) && listOf(jobs.get(row.dataset.id)) === name) freshen(jobs.get(row.dataset.id), row);
  id(name).hidden = list.length === 0;
  const stalled = name === 'running' ? list.filter(job => shownState(job) === 'stalled').length : 0;
  put($('header small', id(name)), number(list.length) + (stalled ? `, ${stalled} of them stalled` : ''));
  const more = id(`more-${name}`);
  if (more) {
    more.hidden = list.length <= SHOWN[name];
    put($('span', more), `${number(list.length - SHOWN[name])} more`);
    $('button', more).hidden = SHOWN[name] >= 100;
  }
  return hold;
}

function draw(force) {
  if (paused && !force) return;
  const count = sortJobs(), held = LISTS.map(name => fill(name, force)).includes(true);
  put(id('n-jobs'), number(jobs.size));
  for (const input of $$('#states input')) put($('b', input.parentElement), number(count[input.value] || 0));
  const busy = (count.running || 0) + (count.stalled || 0);
  put(id('busy'), stats.workers ? `${number(busy)} of ${number(stats.workers)} busy` : '—');
  const none = !LISTS.some(name => lists[name].length), all = filter === 'all' && !words;
  id('empty').hidden = !(loaded && none && all);
  id('nothing').hidden = !(loaded && none && !all);
  id('cancel-all').hidden = all || !(lists.running.length + lists.queued.length);
  put(id('held'), paused ? 'Paused' : held ? 'Held while you are in the list' : '');
  const job = drawnJob() && jobs.get(drawnJob());
  if (job) drawDrawer(job, now(), Date.now() - heard.get(job.id));
}

/* ---- what an operator does ---- */

/* The focus goes to what is next in the list, if what had it has gone. */
function keepFocus() {
  const active = document.activeElement;
  if (active && active !== document.body && active.checkVisibility()) return;
  const within = $('#drawer[open]') ? $$('#drawer [data-close]') : $$('#jobs tbody a');
  (within.find(e => e.checkVisibility()) || id('find')).focus();
}
async function cancel(job) {
  const set = job.document_set_id, loses = job.started_at ? `It is at ${percent(job.fraction || 0)} %. Nothing of it will be kept.` : 'It loses its place in the queue.';
  const watch = job.watching ? ` ${number(job.watching)} ${job.watching === 1 ? 'person watches' : 'people watch'} it.` : '';
  if (!await confirmed(`Cancel ${set}?`, loses + watch, 'Cancel the run', 'Keep it running')) return;
  const response = await ask(`jobs/${job.id}`, { method: 'DELETE' });
  say(response.ok ? job.started_at ? `${set} is told to end.` : `${set} is cancelled.` : `${set} could not be cancelled.`);
  if (response.ok && jobs.get(job.id)?.state === 'queued') take({ ...jobs.get(job.id), state: 'cancelled', ended_at: new Date(now()).toISOString() });
  draw(true);
  keepFocus();
}
async function again(job) {
  const response = await ask(`jobs/${job.id}`, { method: 'POST' });
  if (response.ok) take(await response.json());
  say(response.ok ? `${job.document_set_id} waits again.` : `${job.document_set_id} could not be started again.`);
  draw(true);
}
/* One by one, those that wait first, lest they start meanwhile; how many. */
async function cancelEach(list) {
  const rest = [...list];
  let n = 0;
  await Promise.all(Array.from({ length: 4 }, async () => {
    for (let job; (job = rest.pop());) {
      if ((await ask(`jobs/${job.id}`, { method: 'DELETE' })).ok) n++;
      put(id('held'), `Cancelling, ${number(rest.length)} to go`);
    }
  })).catch(() => {});
  return n;
}
async function cancelQueued() {
  const response = await ask('jobs?state=queued', { method: 'DELETE' });
  return response.ok ? (await response.json()).cancelled : 0;
}
async function cancelAll() {
  const list = [...lists.running, ...lists.queued], running = lists.running.length;
  const loses = running ? `${plural(running, 'of them runs', 'of them run')}: nothing of what these have made will be kept.` : 'They lose their places in the queue.';
  if (!await confirmed(`Cancel ${plural(list.length, 'job', 'jobs')}?`, loses, 'Cancel them', 'Keep them')) return;
  const n = await (filter === 'queued' && !words ? cancelQueued() : cancelEach(list));
  say(`${plural(n, 'job is', 'jobs are')} cancelled.`);
  draw(true);
  keepFocus();
}
const act = job => (over(job) ? again : cancel)(job);
const find = row => row && jobs.get(row.dataset.id);

on(document, 'click', event => {
  const row = event.target.closest('#jobs tbody tr'), button = event.target.closest('button');
  if (event.target.closest('[data-close]') || event.target === id('drawer')) id('drawer').close();
  if (!row || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (button) return act(find(row));
  if (String(getSelection())) return;
  event.preventDefault();
  openDrawer(find(row), now());
});
on(id('drawer'), 'close', () => { const row = $(`tr[data-id="${drawnJob()}"] a`); if (row) row.focus(); else keepFocus(); });
on(id('d-cancel'), 'click', () => cancel(jobs.get(drawnJob())));
on(id('d-again'), 'click', () => again(jobs.get(drawnJob())));
on(id('states'), 'change', event => { filter = event.target.value; draw(true); });
on(id('find'), 'input', () => {
  words = id('find').value.trim().toLowerCase();
  filterOutputs(words);
  draw(true);
  say(`${number(LISTS.reduce((n, name) => n + lists[name].length, 0))} jobs`);
});
for (const name of ['queued', 'ended']) on($('button', id(`more-${name}`)), 'click', () => { SHOWN[name] = 100; draw(true); });
const pause = () => { paused = !paused; id('pause').setAttribute('aria-pressed', String(paused)); draw(true); };
on(id('pause'), 'click', pause);
on(id('cancel-all'), 'click', cancelAll);
on(id('keys'), 'click', () => id('help').showModal());
on(id('log-out'), 'click', event => { event.preventDefault(); logOut(); });

/* ---- keys: single ones can be switched off, and do nothing in a field ---- */

const KEYS_OFF = 'workqueue-keys-off';
id('keys-on').checked = localStorage.getItem(KEYS_OFF) === null;
on(id('keys-on'), 'change', event => { if (event.target.checked) localStorage.removeItem(KEYS_OFF); else localStorage.setItem(KEYS_OFF, '1'); });
function move(by) {
  const all = $$('#jobs tbody tr').filter(row => row.offsetParent), inDrawer = id('drawer').open;
  const at = all.findIndex(row => inDrawer ? row.dataset.id === drawnJob() : row.contains(document.activeElement));
  const row = all[Math.max(0, Math.min(all.length - 1, at + by))];
  if (!row) return;
  if (inDrawer) openDrawer(find(row), now()); else $('a', row).focus();
}
on(document, 'keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches('input:not([type=radio]), textarea') || !id('keys-on').checked || $('#confirm[open], #help[open], #well[open]')) return;
  const job = id('drawer').open ? jobs.get(drawnJob()) : find(document.activeElement?.closest('#jobs tr[data-id]'));
  const keys = { '/': () => id('find').focus(), j: () => move(1), k: () => move(-1), c: () => job && !over(job) && cancel(job), r: () => job && over(job) && again(job),
    p: pause, s: () => $(`#states input[value=${filter === 'stalled' ? 'all' : 'stalled'}]`).click(), '?': () => id('help').showModal() };
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});

/* ---- tabs ---- */

function showTab() {
  const out = location.hash === '#outputs';
  [id('outputs').hidden, id('jobs').hidden, id('states').hidden] = [!out, out, out];
  for (const a of $$('.tabs a')) {
    if (a.hash === (out ? '#outputs' : '#jobs')) a.setAttribute('aria-current', 'page'); else a.removeAttribute('aria-current');
  }
  if (out) loadOutputs();
}
on(window, 'hashchange', showTab);

/* ---- health and charts ---- */

async function loadStats() {
  try {
    const response = await ask('stats');
    if (!response.ok) return;
    stats = await response.json();
    for (const [name, value] of Object.entries({ host: stats.host, program: stats.program?.split('/').at(-1), version: stats.version, up: stats.uptime_s == null ? '—' : coarse(stats.uptime_s) })) put(id(name), value || '—');
    drawCharts(stats.minutes || []);
    await loadHealth(stats.problems);
  } catch { /* the stream says that the server is away */ }
}

/* ---- the list, then what changes ---- */

let lostSince = 0, retryAt = 0, tries = 0, giveUp = null;
function showConnection() {
  id('away').hidden = !lostSince;
  document.body.toggleAttribute('data-lost', !!lostSince);
  if (lostSince) put($('span', id('away')), id('away').dataset.text.replace('{since}', clock(lostSince)).replace('{retry}', retryAt > Date.now() ? `again in ${duration((retryAt - Date.now()) / 1000 + 1)}` : 'now'));
}
/* Takes all there are; what is known from before and is not among them has gone. */
async function loadAll(signal) {
  const known = new Set(jobs.keys());
  let after = '';
  for (;;) {
    const response = await ask(`jobs?limit=1000${after && `&after=${encodeURIComponent(after)}`}`, { signal });
    if (!response.ok) throw new Error(String(response.status));
    const sent = Date.parse(response.headers.get('Date')) + 500, page = await response.json();
    skew = Math.abs(sent - Date.now()) > 2000 ? sent - Date.now() : 0;
    for (const job of page.jobs) {
      take(job);
      known.delete(job.id);
    }
    if (!page.next) break;
    after = page.next;
  }
  for (const jobId of known) forget(jobId);
}
function onEvent(event, data) {
  if (event === 'reload') loadAll(giveUp.signal).catch(() => {}); // more news than the server notes
  else if (event === 'gone') forget(JSON.parse(data).id); // another machine's, which has ended
  else take(JSON.parse(data));
}
async function follow() {
  for (;;) {
    const stop = giveUp = new AbortController();
    try {
      const early = [];
      let ready = false;
      const stream = listen('jobs', (event, data) => { if (ready) onEvent(event, data); else early.push([event, data]); }, stop.signal);
      await Promise.race([stream, loadAll(stop.signal)]);
      [ready, loaded, lostSince, tries] = [true, true, 0, 0];
      for (const [event, data] of early) onEvent(event, data);
      showConnection();
      draw(true);
      await stream;
    } catch (e) { if (e.status === 401) return; }
    stop.abort();
    lostSince ||= Date.now();
    const wait = Math.min(60000, 1000 * 2 ** tries++);
    retryAt = Date.now() + wait;
    showConnection();
    await new Promise(done => { const timer = setTimeout(done, wait); follow.now = () => { clearTimeout(timer); done(); }; });
  }
}
on(id('retry'), 'click', () => follow.now?.());

setInterval(() => { if (!document.hidden) { draw(); showConnection(); } }, 1000);
setInterval(() => { if (!document.hidden) loadStats(); }, STATS_MS);
showTab();
loadStats();
follow();
