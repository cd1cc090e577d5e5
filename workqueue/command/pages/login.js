/* login.js - asks for the operator's secret, tries it, and keeps it for this tab only. */
import { base, id, on, problem, say } from './page.js';
import { SECRET } from './operator.js';

function wrong(name) {
  const sentence = id('secret-hint').dataset[name];
  problem(id('secret'), sentence);
  say(sentence);
  id('secret').select();
}

/* The same words whether the secret was nearly right or not at all. */
async function logIn() {
  const secret = id('secret').value;
  if (!secret) return wrong('missing');
  if (/[^\x21-\x7e]/.test(secret)) return wrong('wrong');
  const response = await fetch(new URL('jobs?limit=1', base), { headers: { Authorization: `Bearer ${secret}`, Accept: 'application/json' }, credentials: 'omit' });
  if (response.status === 403) return wrong('none');
  if (!response.ok) return wrong('wrong');
  sessionStorage.setItem(SECRET, secret);
  location.replace(new URL('jobs', base) + location.hash);
}
on(id('login'), 'submit', async event => {
  event.preventDefault();
  if (id('go').disabled) return;
  id('go').disabled = true;
  try { await logIn(); } catch { wrong('away'); }
  id('go').disabled = false;
});
