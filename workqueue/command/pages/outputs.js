/* outputs.js - the operator's list of outputs: sizes and ages, and deleting them. */
import { $, bytes, base, confirmed, hostOf, id, make, number, on, plural, put, say, timeElement, took } from './page.js';
import { ask } from './operator.js';

let outputs = [], words = '', shown = 50;
const ms = time => time ? Date.parse(time) : 0;
const matches = o => !words || `${o.document_set_id} ${o.server} ${o.key}`.toLowerCase().includes(words);
const total = list => list.reduce((n, o) => n + (o.bytes || 0), 0);
const cell = time => time ? timeElement(ms(time)) : '—';

function makeRow(output) {
  const row = $('template', id('outputs')).content.firstElementChild.cloneNode(true), [set, server, size, madeIn, made, used, act] = row.cells;
  const name = output.document_set_id || output.key.slice(0, 12);
  put(set.firstChild, name);
  set.firstChild.title = output.key;
  if (output.href) set.firstChild.href = new URL(output.href, base).href; else set.firstChild.removeAttribute('download');
  put(server, output.server ? hostOf(output.server) : 'Not labelled');
  put(size, bytes(output.bytes));
  put(madeIn, output.run_ms ? took(output.run_ms / 1000) : '—');
  made.replaceChildren(cell(output.made_at));
  used.replaceChildren(cell(output.used_at));
  act.firstChild.setAttribute('aria-label', `Delete ${name}`);
  on(act.firstChild, 'click', () => remove(output, name));
  return row;
}
function draw() {
  const list = outputs.filter(matches);
  $('tbody', id('outputs')).replaceChildren(...list.slice(0, shown).map(makeRow));
  put(id('n-outputs'), number(outputs.length));
  put($('header small', id('outputs')), `${plural(list.length, 'output', 'outputs')}, ${bytes(total(list))}`);
  id('purge').hidden = !words || !list.length;
  id('more-outputs').hidden = list.length <= shown;
  put($('span', id('more-outputs')), `${number(list.length - shown)} more`);
  id('no-outputs').hidden = list.length > 0;
  $('table', id('outputs')).hidden = !list.length;
}
const deleteOne = output => ask(`outputs/${output.key}`, { method: 'DELETE' });

async function remove(output, name) {
  if (!await confirmed(`Delete ${name}?`, `This frees ${bytes(output.bytes)}. Who asks for it next waits for a new run.`, 'Delete', 'Keep it')) return;
  const response = await deleteOne(output);
  if (response.ok || response.status === 404) outputs = outputs.filter(o => o !== output);
  say(response.ok ? `${name} is deleted.` : `${name} could not be deleted.`);
  draw();
  ($('tbody button', id('outputs')) || id('find')).focus();
}
on(id('purge'), 'click', async () => {
  const list = outputs.filter(matches);
  if (!await confirmed(`Delete ${plural(list.length, 'output', 'outputs')}?`, `This frees ${bytes(total(list))}. Who asks for them next waits for new runs.`, 'Delete them', 'Keep them')) return;
  let n = 0;
  for (const output of list) {
    const response = await deleteOne(output);
    if (!response.ok && response.status !== 404) break;
    outputs = outputs.filter(o => o !== output);
    n++;
  }
  say(`${plural(n, 'output is', 'outputs are')} deleted.`);
  draw();
  id('find').focus();
});
on($('button', id('more-outputs')), 'click', () => { shown += 100; draw(); });

export function filterOutputs(text) { words = text; if (!id('outputs').hidden) draw(); }

export async function loadOutputs() {
  let after = '', all = [];
  for (;;) {
    const response = await ask(`outputs?limit=1000${after && `&after=${encodeURIComponent(after)}`}`);
    if (!response.ok) return;
    const page = await response.json();
    all = all.concat(page.outputs);
    if (!page.next) break;
    after = page.next;
  }
  outputs = all.sort((a, b) => ms(b.used_at || b.made_at) - ms(a.used_at || a.made_at));
  draw();
}
