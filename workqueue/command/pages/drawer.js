/* drawer.js - one job beside the operator's lists: its head, what is known of it, its last lines. */
import { $, base, bytes, duration, id, number, put, timeElement } from './page.js';
import { ask } from './operator.js';
import { over, paint, silentMs, stateOf } from './view.js';

let shown = null, reading = null;
export const drawnJob = () => shown;
const ms = time => time ? Date.parse(time) : 0;
const when = (element, time) => element.replaceChildren(time ? timeElement(ms(time), t => new Date(t).toLocaleString('en-GB', { dateStyle: 'medium', timeStyle: 'medium' })) : 'Not yet');

export function drawDrawer(job, now, aged_ms) {
  const state = stateOf(job, now);
  const message = state === 'stalled' ? `Silent for ${duration(silentMs(job, now) / 1000)}. ${job.message ? `It last said: ${job.message}` : 'It has said nothing.'}` : undefined;
  paint('d-', job, { now, aged_ms, message });
  [id('d-cancel').hidden, id('d-again').hidden] = [over(job), !over(job)];
  put(id('d-watching'), over(job) ? '—' : number(job.watching || 0));
  put(id('d-memory'), job.memory_bytes == null ? 'Not measured' : bytes(job.memory_bytes));
  when(id('d-started'), job.started_at);
}

/* The kept end of what it has written, once; the job's own page follows it. */
async function readLog(job) {
  reading?.abort();
  const stop = reading = new AbortController();
  put(id('d-log'), job.started_at ? '' : 'It has not started.');
  if (!job.started_at) return;
  try {
    const response = await ask(`jobs/${job.id}/log`, { headers: { Accept: 'text/plain' }, signal: stop.signal });
    const text = response.ok ? (await response.text()).replace(/\u001b\[[0-9;]*m/g, '').trimEnd() : '';
    put(id('d-log'), text.split('\n').slice(-200).join('\n') || 'It has written nothing to stderr.');
    id('d-log').scrollTop = id('d-log').scrollHeight;
  } catch { /* another one is shown by now */ }
}

export function openDrawer(job, now) {
  if (!job) return;
  shown = job.id;
  put(id('d-title'), job.document_set_id);
  put(id('d-id'), job.id);
  put(id('d-server'), job.server);
  when(id('d-accepted'), job.accepted_at);
  id('d-open').href = new URL(`jobs/${job.id}`, base).href;
  drawDrawer(job, now, 0);
  readLog(job);
  if (!id('drawer').open) id('drawer').showModal();
}
