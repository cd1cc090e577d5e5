// states.mjs - the pages of `workqueue serve` in headless Chromium, in every state and at two widths.
//
//   node states.mjs '{"base": "http://...", "chromium": "...", "timeout": 20000, "only": "job",
//                     "dark": false, "shots": "FOLDER"}'
//
// The pages come from the server; what they ask it about a job is answered here, so that each state
// can be held still. Prints a JSON line a picture: where the slots of the head stand, what axe-core
// finds, what the console said, and whether anything is wider than the screen.
import {readFileSync, writeFileSync} from 'node:fs';
import {say, told, withPage} from './page.mjs';

const axe = readFileSync(new URL('./node_modules/axe-core/axe.min.js', import.meta.url), 'utf8');
const WIDTHS = [360, 1280];
const SLOTS = ['#chip', '.figure', '#bar', '#message', '#note', '#job .actions'];
const JOB = '7f3a91c2-5d0e-4b7a-9c11-e2b8d44f60a7';
const at = (s) => new Date(Date.now() - s * 1000).toISOString();

const plain = () => ({id: JOB, state: 'running', server: 'https://archive.example.org', document_set_id: 'letters-1961-74', n_ahead_in_queue: 0,
  waits_for: null, fraction: 0.62, message: 'Reading sheet 7,440 of 12,000', items_done: 7440, items_total: 12000, returncode: null, error: null,
  accepted_at: at(196), started_at: at(192), published_at: null, ended_at: null, heard_at: at(1), estimate_ms: 118000, watching: 3,
  memory_bytes: 412000000, attempt: 1, output: null});

const STATES = {
  queued: () => ({state: 'queued', fraction: 0, message: null, n_ahead_in_queue: 3, waits_for: 'worker', accepted_at: at(65), started_at: null, heard_at: null, estimate_ms: 230000}),
  starting: () => ({fraction: 0, message: null, accepted_at: at(6), started_at: at(5), heard_at: null, estimate_ms: 0, watching: 1}),
  running: () => ({message: 'Sheet 7,440 of 12,000: a letter with a stamp, handwriting on the back, and a list of eleven names that goes on overleaf, and on'}),
  stalled: () => ({accepted_at: at(446), started_at: at(442), heard_at: at(250)}),
  publishing: () => ({state: 'publishing', fraction: 1, message: 'Writing'}),
  done: () => ({state: 'succeeded', fraction: 1, returncode: 0, message: 'Read 12,000 sheets, 318 of them blank', published_at: at(60), ended_at: at(60), estimate_ms: 0, output: {bytes: 48200000, href: `work/${JOB}`}}),
  failed: () => ({state: 'failed', fraction: 0.2597, returncode: 2, error: 'Exited with code 2\nstderr:\nopening sheet 3117\nwarning: sheet 3117 says 84,120 bytes, has 61,440\nread-scans: sheet 3,117 ends too early', ended_at: at(130), estimate_ms: 0}),
  cancelled: () => ({state: 'cancelled', fraction: 0.38, message: 'Reading sheet 4,561 of 12,000', returncode: -999, error: 'Exited with code -999\nstderr:\ncancelled', ended_at: at(40), estimate_ms: 0}),
  long: () => ({document_set_id: 'x'.repeat(200), message: 'y'.repeat(400)}),
  lost: () => ({}),
};

// A list as of a busy server: ten thousand wait, eight run, one of them is stuck.
function many(n) {
  const jobs = [], sets = ['letters-1961-74', 'minutes-1988', 'court-2019-b', 'council-2003', '4711', 'field-notes-07', 'parish-1822', 'maps-north'];
  const make = (i, more) => jobs.push({...plain(), id: `${(0x7f3a0000 + i * 265443 >>> 0).toString(16)}-5d0e-4b7a-9c11-${String(i).padStart(12, '0')}`,
    document_set_id: sets[i % 8] + (i < 8 ? '' : `-${i % 97}`), server: `https://${['archive.example.org', 'scans.example.net', 'city.example.com'][i % 3]}`, watching: i % 3, ...more});
  for (let i = 0; i < 8 && n; i++) make(i, i === 5 ? {fraction: 0.41, started_at: at(743), heard_at: at(250)} : {fraction: 0.1 + i / 10, started_at: at(60 + 70 * i), message: `Sheet ${1000 + i * 311} of 6,000`});
  for (let i = 8; i < n - 14; i++) make(i, {state: 'queued', fraction: 0, message: null, n_ahead_in_queue: i, waits_for: i % 5 === 2 ? 'server' : 'worker', started_at: null, heard_at: null, accepted_at: at(2700 - i / 10)});
  for (let i = 0; i < 14 && n; i++) make(n + i, {...STATES[['done', 'done', 'failed', 'done', 'cancelled', 'done', 'done'][i % 7]](), ended_at: at(4 + i * 21)});
  return jobs;
}
const minutes = (none) => Array.from({length: 60}, (_, i) => none ? {} : {succeeded: Math.round(22 + Math.sin(i / 5) * 4 + i * 7 % 5), failed: i > 50 && i < 55 ? 5 : +(i % 9 === 0),
  cancelled: +(i % 17 === 3), queued: i < 14 ? 12 : i < 16 ? (i - 13) * 3600 : 11070 - (i - 15) * 24, wait_p50_ms: i < 15 ? 20000 : (i - 14) * 58000,
  wait_p95_ms: i < 15 ? 40000 : (i - 14) * 62000, run_p50_ms: 150000 + i * 300, run_p95_ms: 420000 - Math.sin(i) * 40000});
const stats = (more) => ({program: '/usr/lib/read-scans', host: 'oslo-2', version: '1.4.0', uptime_s: 1051200, workers: 8, problems: [], wait_ms: 230000, minutes: minutes(), ...more});
const outputs = (n) => Array.from({length: n}, (_, i) => ({key: String(i).padStart(64, 'a'), server: 'https://archive.example.org', document_set_id: `minutes-${1900 + i}`,
  bytes: 1e6 * (1 + i * 37 % 900), made_at: at(4000 + i * 9000), used_at: at(100 + i * 2000), run_ms: 1000 * (30 + i * 71 % 4000), href: `work/${JOB}`}));

const json = (route, body, status = 200, type = 'application/json') => route.fulfill({status, contentType: type, body: typeof body === 'string' ? body : JSON.stringify(body)});
const stream = (route, body) => route.fulfill({contentType: 'text/event-stream', body});

// What the page asks: one answer for each path, the first that fits.
async function answer(page, answers) {
  await page.unroute('**/*').catch(() => {});
  await page.route('**/*', (route) => {
    const request = route.request(), url = new URL(request.url()), accept = request.headers().accept || '';
    for (const [pattern, act] of answers)
      if (pattern.test(url.pathname) && !/text\/html/.test(accept)) return act(route, accept, request);
    return route.continue();
  });
}

const jobAnswers = (state) => {
  let asked = 0;
  const job = () => ({...plain(), ...STATES[state]()});
  return [
    [/\/log$/, (route, accept) => accept.includes('event-stream') ? stream(route, Array.from({length: 40}, (_, i) => `data: sheets ${i * 36} to ${i * 36 + 35}: all read\n\n`).join('') + 'event: end\ndata:\n\n') : json(route, 'sheet 1\n', 200, 'text/plain')],
    [/\/jobs\/[^/]+$/, (route, accept) => {
      if (state === 'lost' && asked++ > 0) return route.abort();
      return accept.includes('event-stream') ? stream(route, `retry: 60000\ndata: ${JSON.stringify(job())}\n\n`) : json(route, job());
    }],
    [/\/stats$/, (route) => json(route, stats())],
  ];
};
const well = {status: 'ok', queued: 0, running: 0, problems: []};
const unwell = {...well, status: 'unwell', problems: ['The disk of the outputs is full: runs that finish wait with their results until there is room.', 'The broker is away'],
  storage: {writable: false, free_bytes: 1200000}, journal: {writable: true, wait_ms: 4200}, broker: {connected: true, away_since: null}, log: {dropped_lines: 12}};
const listAnswers = (jobs, numbers = stats(), files = outputs(12), health = well) => [
  [/\/health$/, (route) => json(route, health)],
  [/\/stats$/, (route) => json(route, numbers)],
  [/\/outputs$/, (route) => json(route, {outputs: files, next: null})],
  [/\/log$/, (route) => json(route, 'sheets 1 to 36: all read\nsheets 37 to 72: 1 blank, left out\n', 200, 'text/plain')],
  [/\/jobs$/, (route, accept) => accept.includes('event-stream') ? new Promise(() => {}) : json(route, {jobs, next: null})],
];

async function look(page, name, {slots} = {}) {
  const seen = await page.evaluate((names) => {
    const tops = {};
    for (const name of names) tops[name] = Math.round(document.querySelector(name).getBoundingClientRect().top + scrollY);
    return {tops, wide: document.documentElement.scrollWidth > innerWidth};
  }, slots ? SLOTS : []);
  await page.evaluate(axe);
  const found = await page.evaluate(() => window.axe.run({resultTypes: ['violations']}));
  const violations = found.violations.map((v) => `${v.id}: ${v.nodes.slice(0, 3).map((n) => n.target.join(' ')).join('; ')}`);
  const width = page.viewportSize().width;
  if (told.shots) writeFileSync(`${told.shots}/${name}-${width}${told.dark ? '-dark' : ''}.png`, await page.screenshot({fullPage: name !== 'jobs-many'}));
  say({name, width, ...seen, violations, console: page.said.splice(0)});
}

// In the page, if it is told to: its stream says at once that there was more news than it can be told.
function reloadAtOnce() {
  if (location.protocol === 'about:' || !sessionStorage.getItem('reload')) return;
  const real = window.fetch, news = new TextEncoder().encode('event: reload\ndata: {}\n\n');
  window.fetch = (url, options) => options?.headers?.Accept === 'text/event-stream' ? Promise.resolve(new Response(new ReadableStream({start: (c) => c.enqueue(news)}))) : real(url, options);
}

const scenes = {
  run: async (page) => {
    await answer(page, [[/\/stats$/, (route) => json(route, {wait_ms: 230000})], [/\/jobs$/, (route) => json(route, {detail: 'This server does not work for archive.example.com. Its operator can allow it.'}, 403, 'application/problem+json')],
      [/\/jobs\/\w+$/, (route, accept) => {
        const state = route.request().url().split('/').at(-1), job = {...plain(), id: state, ...STATES[state]()};
        return accept.includes('event-stream') ? stream(route, `data: ${JSON.stringify(job)}\n\n`) : json(route, job);
      }]]);
    await page.goto(told.base);
    await page.waitForFunction(() => document.getElementById('load').textContent !== '');
    await look(page, 'run-empty');
    await page.evaluate(() => localStorage.setItem(`workqueue-runs ${location.pathname}`, JSON.stringify(['queued', 'done', 'failed', 'cancelled'].map((id, i) => ({id, set: `${id}-set`, at: Date.now() - i * 5e6})))));
    await page.reload();
    await page.waitForFunction(() => document.querySelectorAll('#runs li').length === 4);
    await page.click('#go');
    await look(page, 'run-missing');
    await page.fill('#server', 'https://archive.example.com');
    await page.fill('#set', 'letters');
    await page.fill('#token', 'key');
    await page.click('#go');
    await page.waitForFunction(() => document.querySelector('.problem'));
    const kept = await page.inputValue('#set');
    if (kept !== 'letters') throw new Error('what was typed is lost');
    await look(page, 'run-refused');
    await page.evaluate(() => localStorage.clear());
  },
  job: async (page) => {
    for (const state of Object.keys(STATES)) {
      await answer(page, jobAnswers(state));
      await page.goto(`${told.base}jobs/${JOB}`);
      await page.waitForFunction((s) => document.getElementById('title').textContent !== 'Run' && (s !== 'lost' || !document.getElementById('lost').hidden), state);
      await look(page, `job-${state}`, {slots: true});
    }
    await answer(page, [[/\/jobs\//, (route) => json(route, {detail: 'There is no such job.'}, 404, 'application/problem+json')]]);
    await page.goto(`${told.base}jobs/${JOB}`);
    await page.waitForFunction(() => document.getElementById('chip').textContent === 'Not known');
    await look(page, 'job-gone', {slots: true});
    await answer(page, jobAnswers('running'));
    await page.goto(`${told.base}jobs/${JOB}`);
    await page.click('#log summary');
    await page.waitForFunction(() => document.querySelectorAll('#text span').length >= 40);
    await look(page, 'job-log');
    await page.click('#cancel');
    const focus = await page.evaluate(() => document.activeElement.value);
    if (focus !== 'no') throw new Error(`the harmless answer has not the focus but ${focus}`);
    await look(page, 'job-confirm');
  },
  login: async (page) => {
    await answer(page, [[/\/jobs$/, (route) => json(route, {detail: 'No.'}, 401, 'application/problem+json')]]);
    await page.goto(`${told.base}login`);
    await look(page, 'login');
    await page.fill('#secret', 'nearly');
    await page.click('#go');
    await page.waitForFunction(() => document.querySelector('.problem'));
    await look(page, 'login-wrong');
  },
  jobs: async (page) => {
    await answer(page, listAnswers([], stats({minutes: minutes(true)})));
    await page.goto(`${told.base}login`);
    await page.evaluate((path) => sessionStorage.setItem(`workqueue-secret ${path}`, 'x'), new URL(told.base).pathname);
    await page.addInitScript(reloadAtOnce);
    await page.goto(`${told.base}jobs`);
    await page.waitForFunction(() => !document.getElementById('empty').hidden);
    await look(page, 'jobs-empty');
    const few = many(14).slice(-14), last = few.at(-1).id;
    await answer(page, [[/\/jobs$/, (route) => json(route, {jobs: few.splice(0, 7), next: null})], ...listAnswers([])]);
    await page.evaluate(() => sessionStorage.setItem('reload', '1'));
    await page.goto('about:blank');
    await page.goto(`${told.base}jobs`);
    await page.waitForFunction((id) => document.querySelector(`tr[data-id="${id}"]`), last);
    const known = await page.evaluate(() => [...document.querySelectorAll('#jobs tbody tr')].map((row) => row.dataset.id));
    if (known.length !== 7 || known.includes('undefined')) throw new Error(`after "reload" the page has ${known}`);
    await page.evaluate(() => sessionStorage.removeItem('reload'));
    await answer(page, listAnswers(many(10000), stats(), outputs(12), unwell));
    await page.goto('about:blank');
    await page.goto(`${told.base}jobs`);
    await page.waitForFunction(() => document.querySelectorAll('#queued tbody tr').length === 8);
    await look(page, 'jobs-many');
    const rows = await page.evaluate(() => document.querySelectorAll('tr').length);
    if (rows > 200) throw new Error(`${rows} rows are too many`);
    await page.keyboard.press('s');
    await page.waitForFunction(() => document.querySelectorAll('#running tbody tr').length === 1 && document.getElementById('queued').hidden);
    await look(page, 'jobs-stalled');
    await page.keyboard.press('j');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => document.getElementById('drawer').open && document.getElementById('d-log').textContent);
    await look(page, 'jobs-drawer');
    await page.keyboard.press('Escape');
    await page.keyboard.press('?');
    await look(page, 'jobs-keys');
    await page.keyboard.press('Escape');
    await page.click('#health');
    const facts = await page.evaluate(() => document.querySelector('#well dl').innerText);
    for (const words of ['Storage, writable', '1.2\u00a0MB', '4\u00a0s', 'Log, dropped lines'])
      if (!facts.includes(words)) throw new Error(`the page hides ${words} of /health: ${facts}`);
    const wrong = await page.textContent('#unwell');
    if (!wrong.endsWith('until there is room. The broker is away.')) throw new Error(`problems are told as: ${wrong}`);
    await look(page, 'jobs-health');
    await page.keyboard.press('Escape');
    await page.fill('#find', 'no such thing');
    await page.waitForFunction(() => !document.getElementById('nothing').hidden);
    await look(page, 'jobs-none');
    await page.fill('#find', '');
    await page.click('.tabs a[href="#outputs"]');
    await page.waitForFunction(() => document.querySelectorAll('#outputs tbody tr').length === 12);
    await look(page, 'jobs-outputs');
  },
};

await withPage(async (page) => {
  page.said = [];
  page.on('console', (message) => { if (message.type() === 'error' && !/ERR_FAILED|404|403|401/.test(message.text())) page.said.push(message.text()); });
  page.on('pageerror', (error) => page.said.push(String(error)));
  await page.emulateMedia({colorScheme: told.dark ? 'dark' : 'light', reducedMotion: 'reduce'});
  for (const width of WIDTHS) {
    await page.setViewportSize({width, height: width < 600 ? 780 : 900});
    for (const [name, scene] of Object.entries(scenes)) if (!told.only || name === told.only) await scene(page);
  }
});
