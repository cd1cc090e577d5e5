/* workqueue.js - a job's progress in any page, also one of another origin. Needs nothing else.
 *
 *   <div id="here"></div>
 *   <script type="module">
 *     import { attach } from 'https://jobs.example.org/pages/workqueue.js';
 *     attach(document.getElementById('here'), 'https://jobs.example.org/jobs/ID');
 *   </script>
 *
 * Or watchJob() and cancelJob(), to show it in a way of your own. */

const ENDS = ['succeeded', 'failed', 'cancelled'];
export const isOver = job => ENDS.includes(job.state);

/* What a problem document says, or what there is instead. */
export async function problemOf(response) {
  try {
    const problem = await response.json();
    return problem.detail || problem.title || problem.message;
  } catch {
    return `The server answered with status ${response.status}.`;
  }
}

/* The job as it is now; throws an Error with `status` where there is none. */
export async function getJob(url) {
  const response = await fetch(url, { headers: { Accept: 'application/json' }, credentials: 'omit', cache: 'no-store' });
  if (!response.ok) throw Object.assign(new Error(await problemOf(response)), { status: response.status });
  const job = await response.json();
  const sent = Date.parse(response.headers.get('Date')) + 500; // it has whole seconds
  return { job, ahead_ms: Math.abs(sent - Date.now()) > 2000 ? sent - Date.now() : 0 };
}

/* Ends the job; resolves to '' or to a sentence that says why not. */
export async function cancelJob(url) {
  try {
    const response = await fetch(url, { method: 'DELETE', credentials: 'omit' });
    return response.ok || response.status === 410 ? '' : await problemOf(response);
  } catch {
    return 'The server cannot be reached.';
  }
}

/* Follows a job to its end. `on.job(job)` is called with each news, `on.lost(since, retryAt)` when the
 * connection has gone (times in ms), `on.found()` when it is back, `on.gone(sentence)` if there is no
 * such job. The result has close() and retry(). */
export function watchJob(url, on) {
  let source, timer, closed = false, tries = 0, since = 0;
  function back() {
    if (since) on.found?.();
    [tries, since] = [0, 0];
  }
  function news(event) {
    const job = JSON.parse(event.data);
    back();
    if (isOver(job)) close();
    on.job(job);
  }
  async function lose() {
    source.close();
    if (closed) return;
    since ||= Date.now();
    try { // an EventSource does not say why
      const { job } = await getJob(url);
      if (closed) return;
      back();
      if (isOver(job)) close();
      on.job(job);
    } catch (e) {
      if (closed) return;
      if (e.status === 404 || e.status === 410) {
        close();
        return on.gone?.(e.message);
      }
      on.lost?.(since, wait(Math.min(60000, 1000 * 2 ** ++tries)));
      return;
    }
    if (!closed) wait(1000);
  }
  function wait(ms) {
    clearTimeout(timer);
    timer = setTimeout(open, ms);
    return Date.now() + ms;
  }
  function open() {
    clearTimeout(timer);
    source?.close();
    source = new EventSource(url);
    source.onmessage = news;
    source.addEventListener('end', event => { if (event.data) news(event); close(); });
    source.onerror = lose;
  }
  function close() {
    closed = true;
    clearTimeout(timer);
    source?.close();
  }
  open();
  return { close, retry: open };
}

/* A bar, a sentence and a button to cancel, in `element`. */
export function attach(element, url) {
  const bar = document.createElement('progress'), line = document.createElement('p'), cancel = document.createElement('button');
  bar.max = 1;
  bar.setAttribute('aria-label', 'Progress');
  line.setAttribute('role', 'status');
  line.textContent = 'Connecting …';
  cancel.type = 'button';
  cancel.textContent = 'Cancel';
  cancel.addEventListener('click', async () => { line.textContent = await cancelJob(url) || line.textContent; });
  element.replaceChildren(bar, line, cancel);
  return watchJob(url, {
    job(job) {
      const queued = job.state === 'queued';
      if (!queued && (job.fraction || isOver(job))) bar.value = job.fraction ?? 0; else bar.removeAttribute('value');
      line.textContent = queued ? `${job.n_ahead_in_queue} before you` : job.state === 'succeeded' ? 'Done'
        : job.error || (job.state === 'cancelled' ? 'Cancelled' : [`${Math.floor((job.fraction ?? 0) * 100)} %`, job.message].filter(Boolean).join(' – '));
      cancel.hidden = isOver(job);
      element.dispatchEvent(new CustomEvent('job', { detail: job }));
    },
    lost() { line.textContent = 'The connection is lost; trying again …'; },
    gone(sentence) { line.textContent = sentence; cancel.hidden = true; },
  });
}
