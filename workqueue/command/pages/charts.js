/* charts.js - an hour in sixty steps, as SVG; the words above each chart say the same. */
import { $, about, id, make, number, on } from './page.js';

const W = 240, H = 48, STEPS = 60;
const bold = (value, rest) => [make('b', {}, value), `\u00a0${rest}`];
const axis = y => make('svg:line', { class: 'axis', x1: 0, x2: W, y1: y, y2: y });

/* Draws `shapes`; `words(i)` are those for the step under the pointer, or for the last. */
function chart(name, words, shapes) {
  const figure = id(name), line = $('p', figure), svg = $('svg', figure);
  const label = i => line.replaceChildren(...words(i), i < STEPS - 1 ? `, ${STEPS - 1 - i} min ago` : '');
  svg.replaceChildren(...shapes);
  if (svg.pointed == null) label(STEPS - 1); else label(svg.pointed);
  svg.setAttribute('aria-label', `${$('figcaption', figure).textContent}, the last hour; now ${line.textContent}`);
  if (svg.label) { svg.label = label; return; }
  svg.label = label;
  on(svg, 'pointermove', event => {
    const box = svg.getBoundingClientRect();
    svg.pointed = Math.max(0, Math.min(STEPS - 1, Math.floor((event.clientX - box.left) / box.width * STEPS)));
    svg.label(svg.pointed);
  });
  on(svg, 'pointerleave', () => { svg.pointed = null; svg.label(STEPS - 1); });
}

/* What succeeds goes up; what does not, down. */
function outcomes(name, done, failed, cancelled) {
  const zero = H * .76, w = W / STEPS, most = Math.max(1, ...done), up = (zero - 2) / most;
  const down = n => n ? Math.max(2, Math.min((H - zero - 2) / 2, n * up)) : 0;
  const bar = (kind, i, y, h) => h ? make('svg:rect', { class: kind, x: i * w + .5, y, width: w - 1, height: h }) : '';
  chart(name, i => [...bold(number(done[i]), 'done, '), ...bold(number(failed[i]), 'failed, '), ...bold(number(cancelled[i]), 'cancelled')], [
    ...done.map((n, i) => bar('up', i, zero - n * up, n * up)), ...failed.map((n, i) => bar('down', i, zero + 1, down(n))),
    ...cancelled.map((n, i) => bar('out', i, zero + 1.5 + down(failed[i]), down(n))), axis(zero)]);
}

/* A line and its area; with `high` a dotted one above it. A minute without a value is drawn as 0. */
function lines(name, words, low, high = null) {
  const most = Math.max(1e-3, ...low, ...high || []) * 1.05;
  const at = (v, i) => `${(i * W / (STEPS - 1)).toFixed(1)},${(H - 1 - v / most * (H - 2)).toFixed(1)}`;
  chart(name, words, [axis(H - .5), make('svg:polygon', { class: 'area', points: `0,${H} ${low.map(at).join(' ')} ${W},${H}` }),
    high ? make('svg:polyline', { class: 'line2', points: high.map(at).join(' ') }) : '', make('svg:polyline', { class: 'line1', points: low.map(at).join(' ') })]);
}

const seconds = v => v > 0 ? v < 10 ? `${v.toFixed(1)}\u00a0s` : about(v) : '—';
const medians = (low, high) => i => [...bold(seconds(low[i]), 'median, '), ...bold(seconds(high[i]), 'p95')];

/* `minutes`: at most sixty, the latest last. */
export function drawCharts(minutes) {
  const padded = [...Array(Math.max(0, STEPS - minutes.length)).fill({}), ...minutes.slice(-STEPS)];
  const of = (name, factor = 1) => padded.map(minute => (minute[name] || 0) * factor);
  outcomes('chart-runs', of('succeeded'), of('failed'), of('cancelled'));
  const waiting = of('queued'), start = [of('wait_p50_ms', .001), of('wait_p95_ms', .001)], run = [of('run_p50_ms', .001), of('run_p95_ms', .001)];
  lines('chart-waiting', i => bold(number(waiting[i]), 'in the queue'), waiting);
  lines('chart-start', medians(...start), ...start);
  lines('chart-run', medians(...run), ...run);
}
