/* results.js - what a search has found, as elements; each text with its language and direction. */
import { make, number, plural, put } from './page.js';

const OPEN = '\ue000', CLOSE = '\ue001';

/* What a script says of the language; of Latin it says nothing. */
const scripts = [
  [/[\u067e\u0686\u0698\u06af]/u, 'fa'], [/\p{Script=Arabic}/u, 'ar'], [/\p{Script=Hebrew}/u, 'he'], [/[\p{Script=Hiragana}\p{Script=Katakana}]/u, 'ja'],
  [/\p{Script=Hangul}/u, 'ko'], [/\p{Script=Han}/u, 'zh'], [/\p{Script=Thai}/u, 'th'], [/\p{Script=Devanagari}/u, 'hi'],
  [/\p{Script=Greek}/u, 'el'], [/[\u0454\u0456\u0457\u0491]/iu, 'uk'], [/\p{Script=Cyrillic}/u, 'ru'], [/\p{Script=Khmer}/u, 'km'],
  [/\p{Script=Lao}/u, 'lo'], [/\p{Script=Myanmar}/u, 'my'], [/\p{Script=Bengali}/u, 'bn'], [/\p{Script=Tamil}/u, 'ta'],
];
const rightToLeft = /[\p{Script=Arabic}\p{Script=Hebrew}\p{Script=Syriac}\p{Script=Thaana}]/gu;
const count = (text, pattern) => (text.match(pattern) || []).length;

/* The language and direction that most of its letters have. */
export function describe(text) {
  const letters = count(text, /\p{L}/gu), right = count(text, rightToLeft), latin = count(text, /\p{Script=Latin}/gu);
  const lang = latin * 2 > letters ? '' : scripts.find(([pattern]) => pattern.test(text))?.[1] || '';
  return { dir: letters === 0 ? 'auto' : right * 2 > letters ? 'rtl' : 'ltr', lang };
}

/* A text with its language; one without a known one does not inherit the page's. */
function makeText(tag, text, ...children) {
  const { dir, lang } = describe(text);
  return make(tag, { dir, lang }, ...children);
}

function pieces(snippet) {
  return snippet.split(OPEN).flatMap((piece, i) => {
    const end = i === 0 ? -1 : piece.indexOf(CLOSE);
    return end < 0 ? [piece.replaceAll(CLOSE, '')] : [make('mark', {}, piece.slice(0, end)), piece.slice(end + 1).replaceAll(CLOSE, '')];
  }).filter(piece => piece !== '');
}

function makeResult(result, open) {
  const name = result.title || `Document ${result.id}`, url = /^https?:/i.test(result.url || '') ? result.url : null;
  const inside = window.parent !== window;
  const title = makeText('bdi', name, name);
  const link = url || inside ? make('a', { href: url || '#', rel: 'noopener noreferrer', target: url ? '_blank' : null,
    click: event => { if (!url) event.preventDefault(); open(result, event); } }, title) : title;
  const heading = make('h2', {}, link, result.pageNumber ? make('span', {}, `page ${number(result.pageNumber)}`) : '');
  const snippet = result.snippet || '', item = makeText('li', snippet.length ? snippet : name, heading, makeText('p', snippet, ...pieces(snippet)));
  if (!url && !inside) item.tabIndex = -1;
  return item;
}

export function makeResults(found, open) {
  return make('ol', { class: 'results', start: found.offset + 1 }, ...found.results.map(result => makeResult(result, open)));
}

/* Why nothing was found, in words: each word's own number, and a search that has something. */
export function makeNothing(card, found, addressOf) {
  const words = found.words || [], title = card.querySelector('h2'), [all, alone, instead] = card.querySelectorAll('p');
  put(title, words.length < 2 ? title.dataset.one : words.length === 2 ? title.dataset.two : title.dataset.more);
  put(all, all.dataset.all.replace('{n}', plural(found.index.documents, 'document', 'documents')));
  const known = words.filter(({ documents }) => documents !== null);
  put(alone, known.map(({ word, documents }, i) => `“${word}” ${i ? '' : 'alone '}is in ${documents ? number(documents) : 'none'}`).join(', ') + (known.length ? '.' : ''));
  const rest = words.filter(({ documents }) => documents > 0).map(({ word }) => (/\s/.test(word) ? `"${word}"` : word));
  const q = rest.length < words.length ? rest.join(' ') : rest.join(' OR ');
  if (rest.length) instead.append(make('a', { href: addressOf({ q, offset: 0 }) }, 'Search for ', makeText('bdi', q, q)));
  return card;
}
