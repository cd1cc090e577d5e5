/* health.js - what GET /health says, whatever it says: a word at the top of the operator's page, its
 * sentences below, and everything else, member by member, behind the word. */
import { $, bytes, duration, id, make, number, on, put } from './page.js';
import { ask } from './operator.js';

const ELSEWHERE = ['status', 'problems', 'queued', 'running']; // each has its place on the page
const STATUS = { ok: 'Good', stopping: 'Stopping' };
const spelt = name => name.replace(/_(bytes|ms|s)$/, '').replaceAll('_', ' ');
const capital = words => words.charAt(0).toUpperCase() + words.slice(1);

function valueOf(name, value) {
  if (typeof value === 'boolean') return value ? 'Yes' : 'No';
  if (value === null) return '—';
  if (typeof value !== 'number') return capital(String(value));
  if (name.endsWith('_bytes')) return bytes(value);
  if (name.endsWith('_ms') || name.endsWith('_s')) return duration(name.endsWith('_ms') ? value / 1000 : value);
  return number(value);
}
/* [[words, value]]: {"storage": {"free_bytes": 5}} is "Storage, free". */
function factsOf(object, path = []) {
  return Object.entries(object).filter(([name]) => path.length || !ELSEWHERE.includes(name)).flatMap(([name, value]) => {
    const words = [...path, spelt(name)];
    if (Array.isArray(value)) return value.length ? [[capital(words.join(', ')), value.map(v => typeof v === 'object' ? JSON.stringify(v) : v).join(', ')]] : [];
    return value && typeof value === 'object' ? factsOf(value, words) : [[capital(words.join(', ')), valueOf(name, value)]];
  });
}

export function showHealth(health) {
  const wrong = (health.problems || []).map(words => /[.!?]$/.test(words) ? words : `${words}.`), status = STATUS[health.status] || capital(health.status || 'unknown');
  const well = !wrong.length && health.status === 'ok';
  id('health').dataset.state = well ? 'done' : 'failed';
  put(id('health'), wrong.length > 1 ? `${wrong.length} problems` : wrong.length ? 'Unwell' : status);
  id('unwell').hidden = !wrong.length;
  put(id('unwell'), wrong.join(' '));
  put(id('well-text'), wrong.length ? wrong.join(' ') : well ? 'The server knows of nothing that is wrong.' : `It says: ${status}.`);
  $('dl', id('well')).replaceChildren(...factsOf(health).flatMap(([words, value]) => [make('dt', {}, words), make('dd', {}, value)]));
}
export async function loadHealth(problems) {
  const response = await ask('health'), health = await response.json(); // 503 has a body, too
  showHealth({ ...health, problems: [...new Set([...(health.problems || []), ...(problems || [])])] });
}
on(id('health'), 'click', () => id('well').showModal());
