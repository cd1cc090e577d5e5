// search.mjs - the search page in headless Chromium, alone or in a frame of a page that stands for
// Overview's; does one step after the other, and prints what comes of it, a JSON line each.
//
//   node search.mjs '{"show": "http://.../show?...", "within": "http://another/", "steps": [["type", "word"], ...]}'
import {say, told, withPage} from './page.mjs';

const errors = [];
let heard = '';

// What a person sees: texts by the page's own names, and the results.
function seen() {
  const text = (id) => {
    const element = document.getElementById(id);
    return element && element.checkVisibility() ? element.innerText.trim() : '';
  };
  return {
    address: location.href, focus: document.activeElement?.id || document.activeElement?.tagName, q: document.getElementById('q').value,
    count: text('count'), made: text('made'), age: text('age'), leftOut: text('left-out'), cutOff: text('cut-off'), body: text('body'),
    shown: text('shown'), chip: text('chip'), message: text('message'), refused: text('refused'),
    results: [...document.querySelectorAll('.results li')].map((li) => ({
      title: li.querySelector('bdi').textContent, page: li.querySelector('h2 > span')?.textContent || '', lang: li.lang, dir: li.dir,
      marks: [...li.querySelectorAll('mark')].map((mark) => mark.textContent), snippet: li.querySelector('p').textContent,
      x: Math.round(li.querySelector('bdi').getBoundingClientRect().x),
    })),
  };
}

async function open(page) {
  page.on('pageerror', (error) => errors.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
  page.on('request', (request) => request.url().includes('/search?') && say({request: new URL(request.url()).searchParams.get('q')}));
  if (!told.within) {
    await page.goto(told.show);
    return page;
  }
  await page.goto(told.within);
  await page.exposeFunction('hear', (message) => {
    say({told: message});
    heard = JSON.stringify(message);
  });
  await page.evaluate((show) => {
    addEventListener('message', (event) => window.hear(event.data));
    document.body.innerHTML = '<iframe width="700" height="620" style="border: 0"></iframe>';
    document.querySelector('iframe').src = show;
  }, told.show);
  return (await page.waitForSelector('iframe')).contentFrame();
}

const steps = {
  type: (page, frame, text) => frame.locator('#q').pressSequentially(text, {delay: 20}),
  fill: (page, frame, text) => frame.locator('#q').fill(text),
  press: (page, frame, key) => page.keyboard.press(key),
  click: (page, frame, selector) => frame.locator(selector).first().click(),
  until: (page, frame, text) => frame.waitForFunction((wanted) => document.body.innerText.includes(wanted), text, {timeout: told.timeout}),
  gone: (page, frame, text) => frame.waitForFunction((old) => !document.body.innerText.includes(old), text, {timeout: told.timeout}),
  // Until the last that Overview was told has this in it.
  heard: async (page, frame, text) => {
    while (!heard.includes(text)) await page.waitForTimeout(10);
  },
  back: (page) => page.goBack(),
  reload: (page) => page.reload(),
  size: (page, frame, width, height) => page.setViewportSize({width, height}),
  dark: (page) => page.emulateMedia({colorScheme: 'dark'}),
  picture: (page, frame, path) => page.screenshot({path}),
  look: async (page, frame) => say({seen: await frame.evaluate(seen)}),
};

await withPage(async (page) => {
  await page.setViewportSize({width: 660, height: 620});
  const frame = await open(page);
  for (const [name, ...values] of told.steps) await steps[name](page, frame, ...values);
  say({end: 'done', errors});
});
