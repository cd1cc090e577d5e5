// browser.mjs - headless Chromium, told what to do as one JSON argument; prints JSON lines.
//
//   node browser.mjs '{"page": "http://...", "client": "oboe" | "EventSource" | "fetch", ...}'
//       a page of another origin watches a job: the preflight and the CORS headers must be right
//   node browser.mjs '{"show": "http://.../show?...", "query": "word"}'
//       opens /show, waits until it can be searched, searches
import {runInPage, say, told, withPage} from './page.mjs';

// Runs in the page.
function watch({client, base, documentSet, token}) {
  const fields = new URLSearchParams({server: 'http://overview.example', documentSetId: documentSet});
  const request = {
    method: 'POST',
    headers: {Authorization: 'Basic ' + btoa(token + ':x-auth-token'),
              'Content-Type': 'application/x-www-form-urlencoded'},
    body: fields.toString(),
  };
  if (client === 'oboe')
    window.oboe({...request, url: base + '/generate'})
      .node('!.*', (record) => window.say({record}))
      .done(() => window.say({end: 'done'}))
      .fail((error) => window.say({end: 'failed', status: error.statusCode, body: error.body}));
  if (client === 'fetch')
    fetch(base + '/generate', request).then(async (response) => {
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = '';
      for (let part; !(part = await reader.read()).done; ) {
        text += part.value;
        window.say({text});
      }
      const records = JSON.parse(text);
      window.say({end: 'done', records, retryAfter: response.headers.get('Retry-After')});
    }).catch((error) => window.say({end: 'failed', thrown: String(error)}));
  if (client === 'EventSource') {
    const source = new EventSource(`${base}/generate?${fields}&apiToken=${token}`);
    source.onmessage = (event) => window.say({record: JSON.parse(event.data)});
    source.onerror = () => source.readyState === EventSource.CLOSED && window.say({end: 'done'});
  }
}

// The page's own words are not tested, only that a person gets from an address to a found document.
async function search(page) {
  const errors = [];
  page.on('pageerror', (error) => errors.push(String(error)));
  await page.goto(told.show);
  const box = page.locator('input[type=search]');
  await box.waitFor({state: 'visible', timeout: told.timeout});
  await page.waitForFunction(() => !document.querySelector('input[type=search]').disabled, null,
                             {timeout: told.timeout});
  await box.fill(told.query);
  await box.press('Enter');
  await page.getByText(told.expect).first().waitFor({timeout: told.timeout});
  say({end: 'found', errors});
}

// Shows what a person sees while the job runs, each time it changes.
async function look(page) {
  await page.goto(told.look);
  let before = '';
  for (;;) {
    const text = await page.evaluate(() => document.body.innerText +
      [...document.querySelectorAll('progress')].map((p) => ` progress=${p.value}/${p.max}`).join(''));
    if (text !== before) say({text: (before = text)});
    if (text.includes(told.until)) break;
    await page.waitForTimeout(20);
  }
  say({end: 'seen'});
}

await (told.show ? withPage(search) : told.look ? withPage(look)
       : runInPage(watch, told, 'oboe/dist/oboe-browser.min.js'));
