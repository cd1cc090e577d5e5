/* view.js - one job as people see it: its state in the eyes of a page, and its head: chip, figure,
 * times, bar, message. The job's page, the operator's drawer and the search plugin are built of it. */
import { about, clock, coarse, duration, id, number, percent, put, settings, took } from './page.js';

const WORDS = { queued: 'Queued', starting: 'Running', running: 'Running', stalled: 'Stalled', publishing: 'Publishing',
  done: 'Done', failed: 'Failed', cancelled: 'Cancelled', lost: 'Connection lost' };
const SIGNALS = { 1: 'SIGHUP', 2: 'SIGINT', 4: 'SIGILL', 6: 'SIGABRT', 7: 'SIGBUS', 8: 'SIGFPE', 9: 'SIGKILL', 11: 'SIGSEGV', 13: 'SIGPIPE',
  15: 'SIGTERM', 24: 'SIGXCPU', 25: 'SIGXFSZ' };
export const OWN_FAILURE = -999;
export const wordOf = state => WORDS[state] || state;
export const over = job => ['succeeded', 'failed', 'cancelled'].includes(job.state);
const ms = time => time ? Date.parse(time) : 0;

/* How long the program may be silent before it counts as stalled; and until it is ended, 0: for ever. */
const STALL_MS = Number(settings.stallMs) || 60000;
export const SILENCE_LIMIT_MS = Number(settings.silenceLimitMs) || 0;

/* The state that a page shows. `now` is the server's time in ms. */
export function stateOf(job, now) {
  if (job.state === 'succeeded') return 'done';
  if (job.state !== 'running') return job.state;
  if (now - (ms(job.heard_at) || ms(job.started_at) || now) > STALL_MS) return 'stalled';
  return job.fraction || job.message ? 'running' : 'starting';
}
export const elapsedMs = (job, now) => (ms(job.ended_at) || now) - (ms(job.started_at) || ms(job.accepted_at) || now);
export const silentMs = (job, now) => now - (ms(job.heard_at) || ms(job.started_at) || now);

/* An error as one sentence for a person, and the rest. The wire's form is "Exited with code N\nstderr:\n..." */
export function sentenceOf(job) {
  const text = (job.error || '').replace(/^Exited with code -?\d+\n?(stderr:\n)?/, '').trimEnd(), lines = text.split(/\r?\n/);
  const last = lines.at(-1).split('\r').at(-1).replace(/\u001b\[[0-9;]*m/g, '').trim();
  if (job.returncode === OWN_FAILURE) return { sentence: text.split('\n')[0] || 'It could not be run.', rest: lines.slice(1).join('\n') };
  const how = job.returncode < 0 ? `The program was killed by signal ${-job.returncode}${SIGNALS[-job.returncode] ? ` (${SIGNALS[-job.returncode]})` : ''}`
    : `The program ended with code ${job.returncode}`;
  return { sentence: last ? `${how}: ${last}` : `${how} and said nothing.`, rest: lines.slice(0, -1).join('\n') };
}

export function messageOf(job, state) {
  if (state === 'queued') {
    if (job.waits_for && job.waits_for !== 'worker') return waitsFor(job);
    return 'It starts by itself as soon as a worker is free.';
  }
  if (state === 'failed') return sentenceOf(job).sentence;
  if (state === 'starting') return 'The program has not said how far it is.';
  return job.message || '';
}
export function waitsFor(job) {
  const named = { worker: 'A worker', server: `Its ${(settings.serverLabel || 'server').toLowerCase()} has as many runs as it may have`,
    user: 'Its user has as many runs as one may have', store: 'The place for results is away', broker: 'The broker is away' };
  return named[job.waits_for] || job.waits_for || 'A worker';
}

/* The time left in ms, 0: not known. An estimate of the server's counts down between two records. */
export const leftMs = (job, heardMs) => Math.max(0, (job.estimate_ms || 0) - heardMs);

/* Fills the head of a job; `p` begins the ids. `about_ms`: how long ago the record came. */
export function paint(p, job, { now, lost = false, aged_ms = 0, message } = {}) {
  const state = stateOf(job, now), queued = state === 'queued', end = over(job), bar = id(`${p}bar`);
  const seconds = elapsedMs(job, now) / 1000, [count, unit] = coarse(seconds).split('\u00a0');
  const silent = state === 'starting', failedEarly = end && state !== 'done' && !job.fraction;
  const left = leftMs(job, aged_ms) / 1000, knows = !lost && state !== 'stalled' && left > 0;
  id(`${p}job`).dataset.state = id(`${p}chip`).dataset.state = state;
  put(id(`${p}chip`), wordOf(state));
  put(id(`${p}figure`), queued ? number(job.n_ahead_in_queue) : silent ? count : failedEarly ? '—' : percent(state === 'done' ? 1 : job.fraction || 0));
  put(id(`${p}unit`), queued ? (p ? 'in front' : 'before you') : silent ? `${unit} so far` : failedEarly ? '' : '%');
  put(id(`${p}term1`), queued ? 'Waiting' : end ? 'Took' : 'Elapsed');
  put(id(`${p}time1`), end ? took(seconds) : duration(seconds));
  put(id(`${p}term2`), queued ? 'Done in about' : end ? 'Ended' : 'Left, about');
  put(id(`${p}time2`), end ? (job.ended_at ? clock(ms(job.ended_at)) : '—') : knows && !(silent && !job.estimate_ms) ? about(left) : '—');
  put(id(`${p}message`), message ?? messageOf(job, state));
  if (silent || state === 'publishing') bar.removeAttribute('value');
  else bar.value = state === 'done' ? 1 : queued ? 0 : job.fraction || 0;
  return state;
}
