/* job.js - the page of one run: follows it, and says what is so in a sentence. */
import { base, bytes, clock, coarse, confirmed, duration, hostOf, id, make, number, on, percent, plural, put, say, settings, timeElement, took } from './page.js';
import { cancelJob, getJob, watchJob } from './workqueue.js';
import { SILENCE_LIMIT_MS, elapsedMs, over, paint, sentenceOf, silentMs, stateOf, wordOf } from './view.js';

const LOG_LINES = 1000;
const jobId = location.pathname.replace(/\/+$/, '').split('/').at(-1), url = new URL(`jobs/${jobId}`, base).href;
let job = null, heardAt = 0, skew = 0, lostSince = 0, retryAt = 0, announced = '', drawnState = '', watching, logSource, cancelling = false;
const now = () => Date.now() + skew;
const ms = time => time ? Date.parse(time) : 0;

/* ---- the head ---- */

function note(state) {
  const keep = Number(settings.keepS), name = lostSince ? 'lost' : cancelling ? 'cancelling' : state === 'stalled' && SILENCE_LIMIT_MS ? 'stalledLimit'
    : state === 'done' && keep ? 'doneKeep' : state === 'failed' && !job.fraction ? 'failedEarly' : state;
  const values = { silent: () => duration(silentMs(job, now()) / 1000), limit: () => coarse(SILENCE_LIMIT_MS / 1000), keep: () => coarse(keep),
    percent: () => percent(job.fraction || 0), ended: () => clock(ms(job.ended_at)), lost: () => clock(lostSince),
    retry: () => retryAt > Date.now() ? `again in ${duration((retryAt - Date.now()) / 1000 + 1)}` : 'now' };
  put(id('note'), (id('note').dataset[name] || '').replace(/{(\w+)}/g, (_, value) => values[value]()));
}

function news(state) {
  if (over(job)) return `${wordOf(state)}. ${state === 'failed' ? sentenceOf(job).sentence : job.message || ''}`;
  if (lostSince) return 'Connection lost';
  if (state === 'queued') return `${job.n_ahead_in_queue} before you`;
  return state === 'running' ? `${Math.floor((job.fraction || 0) * 10) * 10} %` : wordOf(state);
}

function showActions(state) {
  const end = over(job);
  const shown = { cancel: !end && !lostSince, retry: !!lostSince && !end, again: end, download: state === 'done' && !!job.output };
  for (const [name, yes] of Object.entries(shown)) id(name).hidden = !yes;
  id('cancel').setAttribute('aria-disabled', String(cancelling)); // it keeps the focus
  id('again').classList.toggle('primary', end && state !== 'done');
  if (!shown.download) return;
  id('download').href = new URL(`work/${job.id}`, base).href; // as it is seen from here, whatever stands in front
  id('download').download = (settings.resultName || '{set}').replace('{set}', job.document_set_id).replace(/[/\\]/g, '_');
  put(id('download'), job.output.bytes == null ? 'Download' : `Download, ${bytes(job.output.bytes)}`);
}

function draw() {
  if (!job) return;
  const state = paint('', job, { now: lostSince ? lostSince + skew : now(), lost: !!lostSince, aged_ms: Date.now() - heardAt });
  const sentence = news(state);
  id('job').toggleAttribute('data-lost', !!lostSince);
  id('lost').hidden = !lostSince;
  note(state);
  showActions(state);
  if (sentence !== announced) say(announced = sentence);
  document.title = `${state === 'running' || state === 'stalled' ? `${percent(job.fraction || 0)} %` : state === 'queued' ? sentence : wordOf(state)} · ${job.document_set_id}`;
  if (drawnState !== state) drawTimeline(drawnState = state);
  drawFacts();
}

/* ---- beside it ---- */

function step(name, time, detail = '') {
  return make('li', { class: time ? 'past' : '' }, make('span', {}, name, ' ', make('small', {}, time ? detail : '')), time ? timeElement(ms(time), clock) : '');
}
function drawTimeline(state) {
  const waited = (ms(job.started_at) - ms(job.accepted_at)) / 1000;
  const steps = [step('Accepted', job.accepted_at), step('Started', job.started_at, waited >= 1 ? `after ${duration(waited)}` : 'at once')];
  if (!over(job) || job.published_at) steps.push(step('Published', job.published_at, job.output?.bytes != null ? bytes(job.output.bytes) : ''));
  steps.push(step(over(job) ? wordOf(state) : 'Ended', job.ended_at, job.started_at ? `in ${took(elapsedMs(job, now()) / 1000)}` : ''));
  id('timeline').replaceChildren(...steps);
}
function drawFacts() {
  const others = (job.watching || 1) - 1, words = id('fact-watching').dataset;
  put(id('title'), job.document_set_id);
  put(id('where'), `${settings.setLabel} at ${hostOf(job.server)}`);
  put(id('fact-id'), job.id);
  put(id('fact-server'), job.server);
  put(id('fact-set'), job.document_set_id);
  put(id('fact-watching'), over(job) ? '—' : others < 1 ? words.one : others === 1 ? words.two : words.more.replace('{n}', number(others)));
  const again = new URL(base);
  again.hash = new URLSearchParams({ server: job.server, set: job.document_set_id });
  id('again').href = again.href;
}

/* ---- the log: read when it is opened, at its end, bounded, and silent for a screen reader ---- */

function write(lines) {
  const block = id('text');
  block.append(...lines.map(line => make('span', {}, `${line.replace(/\u001b\[[0-9;]*m/g, '')}\n`)));
  while (block.childNodes.length > LOG_LINES) block.firstChild.remove();
  put(id('lines'), block.childNodes.length === LOG_LINES ? `the last ${number(LOG_LINES)} lines` : plural(block.childNodes.length, 'line', 'lines'));
  if (id('follow').checked) block.scrollTop = block.scrollHeight;
}
function openLog() {
  if (logSource || !job) return;
  logSource = new EventSource(`${url}/log`);
  on(logSource, 'open', () => id('text').replaceChildren());
  on(logSource, 'message', event => write(event.data.split('\n')));
  on(logSource, 'end', () => { logSource.close(); if (!id('text').childNodes.length) put(id('lines'), 'it has written nothing'); });
  on(logSource, 'error', () => { if (job && over(job)) logSource.close(); });
}
/* What of stderr came with the error: there without asking, for a failure. */
function showError() {
  const { rest, sentence } = sentenceOf(job);
  put(id('log-name'), 'Last lines');
  if (logSource || id('text').childNodes.length) return;
  const lines = rest.split('\n').filter(Boolean);
  write([...lines, sentence.replace(/^[^:]*: /, '')]);
}

/* ---- what happens ---- */

const events = {
  job(record) {
    [job, heardAt, lostSince] = [record, Date.now(), 0];
    if (over(job)) cancelling = false;
    if (job.state === 'failed') showError();
    draw();
  },
  lost(since, again) {
    [lostSince, retryAt] = [since, again];
    draw();
  },
  found() { lostSince = 0; draw(); },
  gone(sentence) {
    put(id('chip'), 'Not known');
    put(id('message'), sentence);
    put(id('note'), id('note').dataset.gone);
    for (const name of ['cancel', 'retry', 'lost', 'download']) id(name).hidden = true;
    id('again').hidden = false;
    say(sentence);
  },
};

on(id('cancel'), 'click', async () => {
  if (cancelling) return;
  const others = (job.watching || 1) - 1, loses = job.state === 'queued' ? 'It loses its place in the queue.'
    : `It is at ${percent(job.fraction || 0)} % after ${duration(elapsedMs(job, now()) / 1000)}. Nothing of it will be kept.`;
  const watch = others === 1 ? ' Somebody else is watching it.' : others > 1 ? ` ${number(others)} others are watching it.` : '';
  if (!await confirmed('Cancel this run?', loses + watch, 'Cancel the run')) return;
  cancelling = true;
  draw();
  const wrong = await cancelJob(url);
  if (!wrong) return; // its end is told
  cancelling = false;
  draw();
  put(id('note'), wrong);
  say(wrong);
});
on(id('retry'), 'click', () => { retryAt = 0; draw(); watching.retry(); });
id('copy').hidden = !navigator.clipboard; // which there is with https only
on(id('copy'), 'click', async () => {
  const copied = await navigator.clipboard.writeText(location.href).then(() => true, () => false);
  put(id('copy'), copied ? 'Copied' : 'Not copied');
  say(copied ? 'The link is copied.' : 'The link could not be copied.');
  setTimeout(() => put(id('copy'), 'Copy link'), 3000);
});
on(id('log'), 'toggle', () => { if (id('log').open) { openLog(); id('text').scrollTop = id('text').scrollHeight; } });
on(id('text'), 'scroll', ({ target }) => { id('follow').checked = target.scrollHeight - target.scrollTop - target.clientHeight < 24; });
id('whole').href = `${url}/log`;

/* Once by fetch, whose answer also tells how far the two clocks are apart; then pushed. */
try {
  const first = await getJob(url);
  skew = first.ahead_ms;
  events.job(first.job);
} catch (e) {
  if (e.status) events.gone(e.message);
}
if (!job ? id('chip').textContent !== 'Not known' : !over(job)) watching = watchJob(url, events);
setInterval(draw, 1000);
