/* page.js - what all pages share: elements, words for numbers and times, announcements, questions. */

export const $ = (selector, within = document) => within.querySelector(selector);
export const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];
export const id = name => document.getElementById(name);
export const on = (element, type, f) => element.addEventListener(type, f);

/* Where the server's paths begin, seen from this page: it may be below a prefix, or behind a proxy. */
export const base = new URL(document.documentElement.dataset.base || './', location.href).href;
export const settings = document.documentElement.dataset;

/* make('svg:rect', {x: 1}, ...children); text is text and never becomes markup. */
export function make(tag, attributes = {}, ...children) {
  const [name, svg] = tag.split(':').reverse();
  const element = svg ? document.createElementNS('http://www.w3.org/2000/svg', name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === 'function') on(element, key, value);
    else if (value !== false && value != null) element.setAttribute(key, value === true ? '' : value);
  }
  element.append(...children);
  return element;
}
export function put(element, value) { if (element.textContent !== value) element.textContent = value; }

/* ---- words for numbers: tabular figures, units behind a no-break space ---- */

const nbsp = words => words.replaceAll(' ', '\u00a0');
export const number = n => Math.round(n).toLocaleString('en');
export const percent = fraction => String(Math.floor(fraction * 100 + 1e-9));
export const plural = (n, one, many) => `${number(n)} ${n === 1 ? one : many}`;

export function bytes(n) {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB'];
  let i = 0, value = n;
  for (; value >= 1000 && i < units.length - 1; i++) value /= 1000;
  return nbsp(`${i === 0 ? number(n) : value.toFixed(value < 100 ? 1 : 0)} ${i === 0 && n === 1 ? 'byte' : units[i]}`);
}
export function duration(seconds) {
  const t = Math.max(0, Math.floor(seconds)), d = Math.floor(t / 86400), h = Math.floor(t / 3600) % 24, m = Math.floor(t / 60) % 60;
  return nbsp(d ? `${d} d ${h} h` : h ? `${h} h ${m} min` : m ? `${m} min ${t % 60} s` : `${t} s`);
}
/* Of what took its time already: as exact as is of use. */
export const took = seconds => seconds > 0 && seconds < 10 ? nbsp(`${seconds.toFixed(1)} s`) : duration(seconds);
/* An estimate, rounded up: the words around it say "about". */
export function about(seconds) {
  if (!Number.isFinite(seconds) || seconds <= 0) return '—';
  return nbsp(seconds < 50 ? `${Math.max(5, Math.ceil(seconds / 5) * 5)} s` : seconds < 5400 ? `${Math.ceil(seconds / 60)} min` : `${Math.ceil(seconds / 3600)} h`);
}
export function coarse(s) {
  return nbsp(s < 60 ? `${Math.floor(s)} s` : s < 3600 ? `${Math.floor(s / 60)} min` : s < 86400 ? `${Math.floor(s / 3600)} h` : s < 172800 ? '1 day' : `${Math.floor(s / 86400)} days`);
}
export const ago = (ms, now = Date.now()) => now - ms < 60000 ? 'just now' : nbsp(`${coarse((now - ms) / 1000)} ago`);
export const clock = ms => new Date(ms).toLocaleTimeString('en-GB');
const full = ms => new Date(ms).toLocaleString('en-GB', { dateStyle: 'long', timeStyle: 'long' });
export const timeElement = (ms, words = ago) => make('time', { datetime: new Date(ms).toISOString(), title: full(ms) }, words(ms));

/* The host of a server's address, which is what people call it. */
export function hostOf(server) {
  try {
    const url = new URL(server);
    return url.host + (url.pathname === '/' ? '' : url.pathname);
  } catch {
    return server;
  }
}

/* ---- announcements: the latest sentence only, and one in five seconds at most ---- */

let announcedAt = 0, toAnnounce = '', announcing = 0;
export function say(sentence) {
  toAnnounce = sentence;
  announcing ||= setTimeout(() => {
    id('say').textContent = toAnnounce;
    [announcedAt, announcing] = [Date.now(), 0];
  }, Math.max(200, announcedAt + 5000 - Date.now()));
}

/* ---- questions: the harmless answer has the focus ---- */

export async function confirmed(title, sentence, yes, no) {
  const dialog = id('confirm');
  put(id('confirm-title'), title);
  put(id('confirm-text'), sentence);
  put(id('confirm-yes'), yes);
  if (no) put($('[value=no]', dialog), no);
  dialog.returnValue = 'no';
  dialog.showModal();
  await new Promise(done => dialog.addEventListener('close', done, { once: true }));
  return dialog.returnValue === 'yes';
}

/* ---- fields ---- */

for (const button of $$('[data-reveal]')) {
  on(button, 'click', () => {
    const input = id(button.dataset.reveal), show = input.type === 'password';
    input.type = show ? 'text' : 'password';
    button.setAttribute('aria-pressed', String(show));
  });
}

/* Says what is wrong with a field in its hint's own place, so that nothing moves. '': nothing is. */
export function problem(input, sentence) {
  const hint = id(input.getAttribute('aria-describedby'));
  hint.dataset.hint ??= hint.textContent;
  hint.classList.toggle('problem', !!sentence);
  input.setAttribute('aria-invalid', String(!!sentence));
  put(hint, sentence || hint.dataset.hint);
  return !!sentence;
}
