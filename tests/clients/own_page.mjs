// own_page.mjs - demo-plugin/examples/page.html in headless Chromium, told what to do as one JSON argument:
//
//   node own_page.mjs '{"page": "http://.../page.html?jobs=http://...", "set": "7"}'
//       fills in the form, and says what a person sees until the output can be fetched, or there is an error
import {say, told, withPage} from './page.mjs';

await withPage(async (page) => {
  const errors = [];
  page.on('pageerror', (error) => errors.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
  await page.goto(told.page, {waitUntil: 'networkidle'});
  await page.getByLabel('Collection').fill(told.set);
  await page.getByRole('button', {name: 'Make it searchable'}).click();
  const link = page.getByRole('link', {name: 'What was made'});
  await link.waitFor({state: 'visible'});
  const status = await page.getByRole('status').textContent();
  const output = await (await page.request.get(await link.getAttribute('href'))).text();
  say({status, output, errors});
});
