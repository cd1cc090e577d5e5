/* operator.js - speaks to the server as the operator: the secret by Bearer, events by fetch, since an
 * EventSource sends no header and a cookie is not to be. */
import { base } from './page.js';

export const SECRET = `workqueue-secret ${new URL(base).pathname}`;
export const loggedIn = () => !!sessionStorage.getItem(SECRET);

export function logOut() {
  sessionStorage.removeItem(SECRET);
  location.replace(new URL('login', base));
}

/* fetch() with the secret; one that is refused leads to the login. */
export async function ask(path, options = {}) {
  const headers = { Accept: 'application/json', ...options.headers, Authorization: `Bearer ${sessionStorage.getItem(SECRET)}` };
  const response = await fetch(new URL(path, base), { credentials: 'omit', cache: 'no-store', ...options, headers });
  if (response.status === 401) logOut();
  return response;
}

/* Calls on(event, data) for each event of a stream until it ends or breaks; then throws. */
export async function listen(path, on, signal) {
  const response = await ask(path, { headers: { Accept: 'text/event-stream' }, signal });
  if (!response.ok) throw Object.assign(new Error(String(response.status)), { status: response.status });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '', event = 'message', data = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error('ended');
    const lines = (rest + value).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith('data:')) data.push(line.slice(5).replace(/^ /, ''));
      else if (line.startsWith('event:')) event = line.slice(6).trim();
      else if (line === '' || line === '\r') {
        if (data.length) on(event, data.join('\n'));
        [event, data] = ['message', []];
      }
    }
  }
}
