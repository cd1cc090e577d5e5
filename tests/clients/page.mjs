// page.mjs - what the scripts for headless Chromium share: what they are told, one JSON argument, and
// a page that tells what it sees, in JSON lines.
import {readFileSync} from 'node:fs';
import {chromium} from 'playwright-core';

export const told = JSON.parse(process.argv[2]);
export const say = (what) => process.stdout.write(JSON.stringify(what) + '\n');

export async function withPage(use) {
  const browser = await chromium.launch({
    executablePath: told.chromium,
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
           '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
  try {
    const page = await browser.newPage();
    page.setDefaultTimeout(told.timeout);
    await use(page);
  } finally {
    await browser.close();
  }
}

// Runs act(what) in the page told.page, with this library of node_modules, until it says an end.
export const runInPage = (act, what, library) => withPage(async (page) => {
  let end;
  const ended = new Promise((resolve) => (end = resolve));
  await page.exposeFunction('say', (what) => { say(what); if (what.end) end(); });
  await page.goto(told.page);
  if (library)
    await page.addScriptTag({content: readFileSync(new URL(`./node_modules/${library}`, import.meta.url), 'utf8')});
  await page.evaluate(act, what);
  await ended;
});
