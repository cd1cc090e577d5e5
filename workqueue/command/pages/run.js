/* run.js - the start page: a form that loses nothing, and the runs that this browser has started. */
import { base, bytes, hostOf, id, make, number, on, percent, problem, put, say, settings, timeElement, about } from './page.js';
import { getJob, isOver, problemOf, watchJob } from './workqueue.js';
import { sentenceOf, stateOf, wordOf } from './view.js';

const KEY = `workqueue-runs ${new URL(base).pathname}`, MOST = 20, STREAMS = 2; // a browser gives a host six connections
const jobPage = job => new URL(`jobs/${job}`, base).href;

/* ---- your runs: what this browser remembers of them is their id, their name and when ---- */

function remembered() {
  try { return JSON.parse(localStorage.getItem(KEY)) || []; } catch { return []; }
}
function remember(runs) {
  try { localStorage.setItem(KEY, JSON.stringify(runs.slice(0, MOST))); } catch { /* then it does not */ }
}
function count() {
  const n = id('runs').childElementCount;
  [id('none').hidden, id('forget').hidden] = [n > 0, n === 0];
}
function show(item, job) {
  const state = stateOf(job, Date.now()), [, chip, bar, what] = item.children;
  chip.dataset.state = bar.dataset.state = state;
  put(chip, wordOf(state));
  bar.hidden = isOver(job) || state === 'queued';
  if (state === 'starting' || state === 'publishing') bar.removeAttribute('value'); else bar.value = job.fraction || 0;
  put(what, state === 'queued' ? `${number(job.n_ahead_in_queue)} before it` : state === 'done' ? bytes(job.output?.bytes || 0)
    : state === 'failed' ? sentenceOf(job).sentence : state === 'starting' ? '' : `${percent(job.fraction || 0)}\u00a0%`);
}
function addRun(run) {
  const item = make('li', {}, make('a', { href: jobPage(run.id) }, run.set), make('span', { class: 'state', 'data-state': 'queued' }, '…'),
    make('progress', { max: 1, value: 0, hidden: true, 'aria-label': run.set }), make('small', {}), make('small', { class: 'end' }, timeElement(run.at)));
  id('runs').append(item);
  return item;
}
async function showRuns() {
  let streams = 0;
  const known = [];
  for (const run of remembered()) {
    const item = addRun(run), url = jobPage(run.id);
    try {
      const { job } = await getJob(url);
      show(item, job);
      if (!isOver(job) && streams++ < STREAMS) watchJob(url, { job: news => show(item, news), gone: () => item.remove() });
    } catch (e) {
      if (e.status === 404) { item.remove(); continue; }
    }
    known.push(run);
  }
  remember(known);
  count();
}
on(id('forget'), 'click', () => {
  id('runs').replaceChildren();
  remember([]);
  count();
  say('The list is empty.');
  id('go').focus();
});

/* ---- the form ---- */

const fields = [['server', id('server')], ['set', id('set')], ['token', id('token')]];
const asked = name => settings.fields.split(',').includes(name);

/* What a person can see at once; the rest is the server's to judge. */
function judge(name, input) {
  const label = settings[`${name}Label`];
  if (!asked(name)) return '';
  if (!input.value.trim()) return name === 'token' ? `The ${label} is missing` : `Which ${label}?`;
  if (name === 'server' && !/^https?:\/\/[^/\s]/i.test(input.value.trim())) return 'This must begin with http:// or https://';
  return input.value.trim().startsWith('-') ? 'This must not begin with -' : '';
}
function firstWrong() {
  let first = null;
  for (const [name, input] of fields) if (problem(input, judge(name, input))) first ??= input;
  return first;
}
/* A refusal stands where the hint of the field that it is about stood; else below the button. */
function showRefusal(status, sentence) {
  const at = status === 401 || /api_?token/i.test(sentence) ? 2 : /document_?set/i.test(sentence) ? 1 : status === 403 || /\bserver\b/i.test(sentence) ? 0 : -1;
  const input = at >= 0 && status < 500 && status !== 429 && asked(fields[at][0]) ? fields[at][1] : null;
  if (input) {
    problem(input, sentence);
    input.focus();
  } else {
    id('load').classList.add('problem');
    put(id('load'), sentence);
    id('go').focus();
  }
  say(sentence);
}
async function start() {
  const body = new URLSearchParams({ server: id('server').value.trim(), document_set_id: id('set').value.trim(), api_token: id('token').value });
  if (id('rebuild').checked) body.set('rebuild', '1');
  const response = await fetch(new URL('jobs', base), { method: 'POST', body, headers: { Accept: 'application/json' }, credentials: 'omit' });
  if (!response.ok) return showRefusal(response.status, await problemOf(response));
  const job = await response.json(), runs = remembered().filter(run => run.id !== job.id);
  remember([{ id: job.id, set: job.document_set_id, at: Date.now() }, ...runs]);
  id('token').value = asked('token') ? '' : id('token').value;
  location.href = jobPage(job.id);
}
on(id('start'), 'submit', async event => {
  event.preventDefault();
  const wrong = firstWrong();
  if (wrong) return wrong.focus();
  if (id('go').disabled) return; // a double click starts one
  id('go').disabled = true;
  try {
    await start();
  } catch {
    showRefusal(0, 'The server cannot be reached. What you have written is still here: try again.');
  }
  id('go').disabled = false;
});
for (const [name, input] of fields) on(input, 'input', () => { if (input.getAttribute('aria-invalid') === 'true') problem(input, judge(name, input)); });

/* "Run again" comes with what it was; never with the key. What is in the address leaves it at once. */
const given = new URLSearchParams(location.hash.slice(1));
if (given.has('set')) {
  if (asked('server')) id('server').value = given.get('server') || '';
  if (asked('set')) id('set').value = given.get('set');
  id('rebuild').checked = true;
  (asked('token') ? id('token') : id('go')).focus();
}
if (location.hash || location.search) history.replaceState(null, '', location.pathname);

async function showLoad() {
  try {
    const response = await fetch(new URL('stats', base), { headers: { Accept: 'application/json' }, credentials: 'omit' });
    const { wait_ms: wait } = response.ok ? await response.json() : {};
    if (wait == null || id('load').classList.contains('problem')) return;
    put(id('load'), wait < 1000 ? id('load').dataset.free : id('load').dataset.wait.replace('{wait}', about(wait / 1000)));
  } catch { /* it is a comfort only */ }
}
showRuns();
showLoad();
