// flows.mjs - what people do on the pages of `workqueue serve`, on a real server in headless Chromium.
//
//   node flows.mjs '{"flow": "run" | "fail" | "cancel" | "operator" | "lost", "base": "http://.../", ...}'
//
// Prints JSON lines of what was seen; for "lost" it waits for a line on stdin between its steps.
import {createInterface} from 'node:readline';
import {readFileSync, writeFileSync} from 'node:fs';
import {say, told, withPage} from './page.mjs';

const text = (page, id) => page.evaluate((name) => document.getElementById(name).textContent, id);
const until = (page, id, pattern) => page.waitForFunction(([name, source]) => new RegExp(source).test(document.getElementById(name).textContent), [id, pattern]);

async function start(page, set, token = 'tok3nofthetest') {
  await page.goto(told.base);
  await page.fill('#server', 'http://archive.example');
  await page.fill('#set', set);
  await page.fill('#token', token);
  await page.dblclick('#go');
  await page.waitForURL(/\/jobs\/[0-9a-f-]{36}$/);
  await page.waitForFunction((name) => document.getElementById('title').textContent === name, set);
}

const flows = {
  run: async (page) => {
    await start(page, 'letters');
    await until(page, 'figure', '^(33|66)$');
    say({seen: 'running', message: await text(page, 'message')});
    await page.click('#log summary');
    await page.waitForFunction(() => /read sheet 1/.test(document.getElementById('text').textContent));
    writeFileSync(told.go, ''); // it has waited for this
    await until(page, 'chip', '^Done$');
    await page.waitForFunction(() => /read sheet 3/.test(document.getElementById('text').textContent));
    say({seen: 'log', lines: await text(page, 'lines')});
    const [download] = await Promise.all([page.waitForEvent('download'), page.click('#download')]);
    say({seen: 'done', name: download.suggestedFilename(), body: readFileSync(await download.path(), 'utf8'), button: await text(page, 'download')});
    await page.click('.brand');
    await page.waitForFunction(() => /Done/.test(document.getElementById('runs').textContent));
    const kept = await page.evaluate(() => JSON.stringify(localStorage) + JSON.stringify(sessionStorage) + location.href + document.documentElement.outerHTML);
    say({seen: 'kept', token: kept.includes('tok3nofthetest'), runs: await page.locator('#runs li').count()});
    await page.goBack();
    await page.click('#again');
    await page.waitForFunction(() => document.getElementById('set').value === 'letters');
    say({seen: 'again', url: page.url(), server: await page.inputValue('#server'), token: await page.inputValue('#token')});
  },
  fail: async (page) => {
    await start(page, 'bad');
    await until(page, 'chip', '^Failed$');
    await page.click('#log summary');
    say({seen: 'failed', figure: await text(page, 'figure'), message: await text(page, 'message'), log: await text(page, 'text'), note: await text(page, 'note')});
  },
  cancel: async (page) => {
    await start(page, 'slow');
    await until(page, 'figure', '^33$');
    await page.click('#cancel');
    await page.click('#confirm-yes');
    await until(page, 'note', 'told to end'); // the program takes its time
    say({seen: 'cancelling', focus: await page.evaluate(() => document.activeElement.id), disabled: await page.getAttribute('#cancel', 'aria-disabled')});
    await until(page, 'chip', '^Cancelled$');
    say({seen: 'cancelled', figure: await text(page, 'figure'), note: await text(page, 'note')});
  },
  operator: async (page) => {
    await start(page, 'slow');
    await page.goto(`${told.base}jobs`);
    await page.waitForURL(/\/login$/);
    await page.fill('#secret', told.secret);
    await page.keyboard.press('Enter');
    await page.waitForURL(/\/jobs$/);
    await page.waitForFunction(() => document.querySelector('#running tbody tr'));
    await page.evaluate(() => { window.rowSeen = document.querySelector('#running tbody tr'); });
    await fetch(`${told.base}jobs`, {method: 'POST', body: new URLSearchParams({server: 'http://other.example', document_set_id: 'slow-2', api_token: 'x'})});
    await page.waitForFunction(() => /slow-2/.test(document.getElementById('jobs').textContent));
    say({seen: 'pushed', rows: await page.locator('#running tbody tr').count()});
    await page.fill('#find', 'slow-2');
    await page.waitForFunction(() => document.querySelectorAll('#jobs tbody tr').length === 1);
    await page.locator('#jobs tbody a').focus();
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => document.getElementById('drawer').open);
    await page.click('#d-cancel');
    await page.click('#confirm-yes');
    await page.waitForFunction(() => /Cancelled/.test(document.getElementById('d-chip').textContent));
    await page.click('#d-again');
    await page.keyboard.press('Escape');
    await page.waitForFunction(() => document.querySelectorAll('#running tbody tr, #queued tbody tr').length === 1);
    say({seen: 'again', ended: await page.locator('#ended tbody tr').count()});
    const kept = await page.evaluate(() => ({cookie: document.cookie, local: JSON.stringify(localStorage)}));
    await page.click('#log-out');
    await page.waitForURL(/\/login$/);
    say({seen: 'out', cookie: kept.cookie, secret: kept.local.includes(told.secret), session: await page.evaluate(() => sessionStorage.length)});
  },
  lost: async (page) => {
    const lines = createInterface({input: process.stdin})[Symbol.asyncIterator]();
    await start(page, 'slow');
    await until(page, 'figure', '^33$');
    say({seen: 'running'});
    await lines.next(); // the server has gone
    await page.waitForFunction(() => !document.getElementById('lost').hidden);
    say({seen: 'lost', figure: await text(page, 'figure'), chip: await text(page, 'chip'), note: await text(page, 'note'), cancel: await page.locator('#cancel').isVisible()});
    await lines.next(); // it is back
    await page.click('#retry');
    await page.waitForFunction(() => document.getElementById('lost').hidden);
    await until(page, 'figure', '^33$');
    say({seen: 'found', chip: await text(page, 'chip')});
  },
};

await withPage(async (page) => {
  page.on('pageerror', (error) => say({error: String(error)}));
  page.on('console', (message) => { if (message.type() === 'error' && !/Failed to load|ERR_/.test(message.text())) say({error: message.text()}); });
  await flows[told.flow](page);
});
process.exit(0);
