// many.mjs - the operator's page with ten thousand jobs on a real server, in headless Chromium.
//
//   node many.mjs '{"base": "http://.../", "secret": "...", "stuck": "NAME", "jobs": "11,501", ...}'
//
// Logs in, finds the stuck job by search, cancels it by the keyboard, and scrolls while the thousands
// behind it run. Prints JSON lines: how long each took, and what kept the page from answering.
import {say, told, withPage} from './page.mjs';

const since = (start) => Math.round(performance.now() - start);

// From now on the page notes each task of more than 50 ms, and how far apart its frames are.
const watch = (page) => page.evaluate(() => {
  window.tasks = [];
  new PerformanceObserver((list) => { for (const entry of list.getEntries()) window.tasks.push(Math.round(entry.duration)); }).observe({type: 'longtask', buffered: true});
});
const tasks = (page) => page.evaluate(() => window.tasks.splice(0).sort((a, b) => b - a));

await withPage(async (page) => {
  page.on('pageerror', (error) => say({seen: 'error', error: String(error)}));
  await page.setViewportSize({width: 1280, height: 900});
  await page.goto(`${told.base}login`);
  await page.fill('#secret', told.secret);
  const opened = performance.now();
  await page.keyboard.press('Enter');
  await page.waitForURL(/\/jobs$/);
  await watch(page);
  await page.waitForFunction((n) => document.getElementById('n-jobs').textContent === n && document.querySelectorAll('#queued tbody tr').length === 8, told.jobs);
  say({seen: 'open', ms: since(opened), jobs: await page.textContent('#n-jobs'), rows: await page.locator('tr').count(), tasks: await tasks(page)});

  const begun = performance.now();
  await page.keyboard.press('/');
  await page.keyboard.type(told.stuck);
  await page.waitForFunction(() => document.querySelectorAll('#jobs tbody tr').length === 1);
  say({seen: 'found', ms: since(begun), tasks: await tasks(page)});
  await page.keyboard.press('Tab');
  await page.locator('#running tbody a').focus();
  await page.keyboard.press('c');
  await page.keyboard.press('Shift+Tab');
  await page.locator('#confirm-yes').press('Enter');
  await page.waitForFunction(() => document.querySelector('#ended tbody tr .state[data-state=cancelled]'));
  say({seen: 'cancelled', ms: since(opened), tasks: await tasks(page)});

  await page.fill('#find', '');
  await page.click('#more-queued button');
  await page.mouse.move(640, 450);
  await page.evaluate(() => { // the thousands run meanwhile
    window.frames = [];
    let last = performance.now();
    const next = (at) => { window.frames.push(at - last); last = at; if (window.frames.length < 2000) requestAnimationFrame(next); };
    requestAnimationFrame(next);
  });
  for (let i = 0; i < 60; i++) {
    await page.mouse.wheel(0, i < 30 ? 120 : -120);
    await page.waitForTimeout(50);
  }
  const gaps = (await page.evaluate(() => window.frames)).map(Math.round).sort((a, b) => b - a);
  say({seen: 'scrolled', frames: gaps.length, worst: gaps.slice(0, 5), p95: gaps[Math.floor(gaps.length / 20)], tasks: await tasks(page)});

  await page.fill('#find', 'set-1099'); // the last hundred
  await page.click('#cancel-all');
  await page.click('#confirm-yes');
  await page.waitForFunction(() => /100 jobs are cancelled/.test(document.getElementById('say').textContent));
  await page.fill('#find', '');
  await page.locator('#states input[value=queued]').press('Space');
  const all = performance.now();
  await page.click('#cancel-all');
  const asked = await page.textContent('#confirm-title');
  await page.click('#confirm-yes');
  await page.waitForFunction(() => document.querySelector('#states input[value=queued] ~ b').textContent === '0');
  say({seen: 'all cancelled', ms: since(all), asked, tasks: await tasks(page)});
});
process.exit(0);
