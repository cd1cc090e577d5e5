/* show.js - the search page in Overview: the index, as it is made and as old as it is, and the search.
 *
 * Overview opens the page as /show?server=...&documentSetId=...&apiToken=...&origin=... The API token
 * goes into the Authorization header and nowhere else; the query is behind the # of the address. */
import { ago, base, id, make, number, on, plural, put, say } from './page.js';
import { cancelJob, problemOf, watchJob } from './workqueue.js';
import { over, paint, sentenceOf, stateOf } from './view.js';
import { makeNothing, makeResults } from './results.js';
import { showInOverview, showNothingInOverview } from './overview.js';

const PAGE = 20, TYPING_MS = 300, LOOK_EVERY_MS = 60000;
const asked = new URLSearchParams(location.search);
const fields = { server: asked.get('server') || '', documentSetId: asked.get('documentSetId') || '' };
const token = new TextEncoder().encode(`${asked.get('apiToken') || ''}:x-auth-token`);
const headers = { Authorization: `Basic ${btoa(String.fromCharCode(...token))}` };
// Without credentials no browser asks for a password where the server refuses.
const ask = (path, more = {}) => fetch(new URL(path, base), { headers, credentials: 'omit', cache: 'no-store', ...more });

const sections = ['job', 'refused', 'searching'];
function show(name) { for (const section of sections) id(section).hidden = section !== name; }
const template = name => id(name).content.firstElementChild.cloneNode(true);
const fill = (sentence, values) => sentence.replace(/{(\w+)}/g, (_, name) => values[name]);

/* ---- the index: made, followed, told how old it is ---- */

let index = null, job = null, watching = null, heardAt = 0, lostSince = 0, announced = '';

function refuse(sentence, kind = 'refused') {
  put(id('refused-title'), id('refused-title').dataset[kind]);
  put(id('refused-text'), sentence);
  show('refused');
}

/* Shows the job: large while there is no index, in a line while the old one serves. */
function drawJob() {
  if (!job) return;
  const state = paint('', job, { now: Date.now(), lost: !!lostSince, aged_ms: Date.now() - heardAt });
  const percent = `${Math.floor((job.fraction || 0) * 100)} %`, end = over(job);
  id('job').toggleAttribute('data-lost', !!lostSince);
  put(id('note'), id('note').dataset[lostSince ? 'lost' : state] || '');
  id('cancel').hidden = end;
  id('again').hidden = !end || state === 'done';
  if (index && !end) put(id('made'), lostSince ? 'Indexing again, connection lost' : `Indexing again: ${state === 'queued' ? 'waiting' : percent}`);
  id('rebuild').hidden = !!watching && !end;
  const news = end ? state : `${Math.floor((job.fraction || 0) * 10) * 10} %`;
  if (news !== announced) say(announced = news);
}

function endJob() {
  watching = null;
  if (job.state === 'succeeded') return look().then(() => { if (query().q) search(query()); });
  if (!index) return;
  id('rebuild').hidden = false;
  drawIndex();
  if (job.state === 'failed') notify('age', fill(id('age').dataset.failed, { why: sentenceOf(job).sentence }));
}

async function makeIndex(rebuild) {
  const body = new URLSearchParams(fields);
  if (rebuild) body.set('rebuild', '1');
  let response;
  try {
    response = await ask('jobs', { method: 'POST', body, headers: { ...headers, Accept: 'application/json' } });
  } catch {
    return refuse('', 'unreachable');
  }
  if (!response.ok) return refuse(await problemOf(response));
  job = await response.json();
  heardAt = Date.now();
  if (!index) show('job');
  watching?.close();
  watching = watchJob(new URL(`jobs/${job.id}`, base).href, {
    job(news) { [job, heardAt, lostSince] = [news, Date.now(), 0]; drawJob(); if (over(job)) endJob(); },
    lost(since) { lostSince = since; drawJob(); },
    found() { lostSince = 0; drawJob(); },
    gone(sentence) { watching = null; if (!index) refuse(sentence); },
  });
  drawJob();
}

function notify(name, sentence) {
  id(name).hidden = !sentence;
  put(id(name), sentence || '');
}

function drawIndex() {
  if (!index || watching) return;
  put(id('made'), index.madeAtMs ? `Index made ${ago(index.madeAtMs)}` : '');
  if (!query().q) put(id('count'), plural(index.documents, 'document', 'documents'));
}

function drawAge(overview) {
  const more = overview.documents === null ? 0 : overview.documents - index.documents - index.nLeftOut;
  const n = `${plural(Math.abs(more), 'document was', 'documents were')}`;
  notify('age', more ? fill(id('age').dataset[more > 0 ? 'added' : 'removed'], { n }) : '');
  const named = index.leftOut.slice(0, 3).map(({ name, why }) => `${name} (${why})`).join('; ');
  notify('left-out', index.nLeftOut ? `Not in the index: ${plural(index.nLeftOut, 'document', 'documents')}, ${index.nLeftOut > 3 ? 'as ' : ''}${named}.` : '');
}

/* Looks what there is; resolves once it is on the page. */
async function look() {
  let response;
  try {
    response = await ask(`index?${new URLSearchParams(fields)}`);
  } catch {
    return index ? undefined : refuse('', 'unreachable');
  }
  if (response.status === 404 || response.status === 422) {
    index = null;
    return makeIndex(response.status === 422);
  }
  if (!response.ok) return index ? undefined : refuse(await problemOf(response));
  const answer = await response.json(), first = !index;
  index = answer.index;
  drawIndex();
  drawAge(answer.overview);
  if (!first || id('searching').hidden === false) return;
  show('searching');
  drawWelcome();
  restore();
  if (window.top === window || document.hasFocus()) id('q').focus();
}

/* ---- the search ---- */

let searches = 0, typing = 0, running = null;

/* What the address says. */
function query() {
  const hash = new URLSearchParams(location.hash.slice(1));
  return { q: (hash.get('q') || '').trim(), offset: Math.max(0, Number(hash.get('offset')) || 0) };
}
function addressOf({ q, offset }) {
  const hash = new URLSearchParams(q ? { q } : {});
  if (offset) hash.set('offset', offset);
  return `${location.pathname}${location.search}${q ? `#${hash}` : ''}`;
}

function drawBody(...children) {
  id('body').replaceChildren(...children);
  id('body').setAttribute('aria-busy', 'false');
  id('pager').hidden = true;
  id('cut-off').hidden = true;
}

function drawWelcome() {
  drawBody(template('welcome'));
  put(id('count'), index ? plural(index.documents, 'document', 'documents') : '');
}

function drawProblem(sentence) {
  const card = template('problem');
  put(card.querySelector('p'), sentence);
  drawBody(card);
  put(id('count'), '');
}

function drawFound(found, { q, offset }) {
  const least = found.complete ? '' : 'At least ', total = plural(found.total, 'document', 'documents');
  put(id('count'), found.total ? least + total : found.complete ? 'No document' : 'None so far');
  say(id('count').textContent);
  if (!found.total) return drawBody(found.complete ? makeNothing(template('nothing'), found, addressOf) : template('stopped'));
  drawBody(makeResults(found, openDocument, fields.documentSetId));
  id('cut-off').hidden = found.complete;
  id('pager').hidden = found.total <= PAGE;
  id('previous').disabled = offset === 0;
  id('next').disabled = offset + found.results.length >= found.total;
  const last = offset + found.results.length;
  put(id('shown'), found.results.length ? `${number(offset + 1)}–${number(last)} of ${least.toLowerCase()}${number(found.total)}` : 'There are no more.');
}

/* The last answer wins: an earlier search is given up. */
async function search({ q, offset }) {
  clearTimeout(typing);
  running?.abort();
  const mine = ++searches;
  if (!q) {
    showNothingInOverview();
    return drawWelcome();
  }
  running = new AbortController();
  id('body').setAttribute('aria-busy', 'true');
  let response, found;
  try {
    const bits = offset === 0 ? 1 : 0;
    response = await ask(`search?${new URLSearchParams({ ...fields, q, offset, limit: PAGE, open: '\ue000', close: '\ue001', bits })}`, { signal: running.signal });
    found = response.ok ? await response.json() : null;
  } catch (e) {
    if (mine === searches && e.name !== 'AbortError') drawProblem('The server cannot be reached.');
    return;
  }
  if (mine !== searches) return;
  if (response.status === 404) return look(); // the index has been deleted
  if (!found) return drawProblem(await problemOf(response));
  drawFound(found, { q, offset });
  if (offset === 0) showInOverview(found, q);
}

/* The address follows: a new entry for what was asked for, none for what was passed while typing. */
function go(wanted, keeps) {
  if (addressOf(wanted) !== `${location.pathname}${location.search}${location.hash}`)
    history[keeps ? 'pushState' : 'replaceState'](null, '', addressOf(wanted));
  search(wanted);
}
function restore() {
  const wanted = query();
  if (id('q').value.trim() !== wanted.q) id('q').value = wanted.q;
  if (wanted.q) search(wanted);
  else drawWelcome();
}
function openDocument(result, event) {
  if (event.ctrlKey || event.metaKey || event.shiftKey || !showInOverview({ ids: [result.id], complete: true }, result.title || '')) return;
  event.preventDefault();
}

/* ---- keys ---- */

function moveFocus(step) {
  const all = [...id('body').querySelectorAll('.results li')].map(item => item.querySelector('a') || item);
  const at = all.findIndex(item => item === document.activeElement || item.contains(document.activeElement));
  const next = all[at + step];
  if (next) next.focus();
  else if (at + step < 0) id('q').focus();
}
on(document, 'keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || id('searching').hidden) return;
  const inBox = document.activeElement === id('q'), inResults = id('body').contains(document.activeElement);
  if (event.key === '/' && !inBox) id('q').focus();
  else if (event.key === 'ArrowDown' && (inBox || inResults)) moveFocus(1);
  else if (event.key === 'ArrowUp' && inResults) moveFocus(-1);
  else if (event.key === 'Escape' && inResults) id('q').focus();
  else return;
  event.preventDefault();
});

/* ---- what happens ---- */

on(id('q'), 'input', event => {
  clearTimeout(typing);
  if (!event.isComposing) typing = setTimeout(() => go({ q: id('q').value.trim(), offset: 0 }, false), TYPING_MS);
});
on(id('q'), 'compositionend', () => id('q').dispatchEvent(new Event('input')));
on(id('form'), 'submit', event => { event.preventDefault(); go({ q: id('q').value.trim(), offset: 0 }, true); });
for (const [name, step] of [['previous', -PAGE], ['next', PAGE]])
  on(id(name), 'click', () => { const { q, offset } = query(); go({ q, offset: Math.max(0, offset + step) }, true); id('searching').scrollIntoView(); });
on(window, 'popstate', restore);
on(id('cancel'), 'click', async () => { if (job) put(id('message'), await cancelJob(new URL(`jobs/${job.id}`, base).href) || job.message || ''); });
on(id('again'), 'click', () => makeIndex(false));
on(id('rebuild'), 'click', () => makeIndex(true));
on(id('retry'), 'click', () => look());
on(document, 'visibilitychange', () => { if (index && !document.hidden && !watching) look(); });
setInterval(() => { if (job && !over(job)) drawJob(); else drawIndex(); }, 1000);
setInterval(() => { if (index && !document.hidden && !watching) look(); }, LOOK_EVERY_MS);
look();
