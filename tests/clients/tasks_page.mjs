// tasks_page.mjs - a jQuery page in headless Chromium that uses the task-status API as its pages do;
// prints JSON lines.
//
//   node tasks_page.mjs '{"page": "http://...", "tasks": "http://.../api/tasks/", "every": 1000, ...}'
//       begins a task, polls it, says each status and what its progress bar shows, ends at SUCCESS
//       or FAILURE
import {readFileSync} from 'node:fs';
import {chromium} from 'playwright-core';

const told = JSON.parse(process.argv[2]);
const say = (what) => process.stdout.write(JSON.stringify(what) + '\n');
const jquery = new URL('./node_modules/jquery/dist/jquery.min.js', import.meta.url);

// Runs in the page.
function useTasks({tasks, documentSet, token, every}) {
  const $ = window.jQuery;
  const bar = $('<div id="bar" style="width: 0">').appendTo('body');
  const refused = (xhr) => window.say({end: 'refused', status: xhr.status, body: xhr.responseJSON});

  function follow(id) {
    const timer = setInterval(() => {
      $.getJSON(tasks + id + '/').done((answer) => {
        bar.css('width', answer.data.done_percentage + '%');
        window.say({data: answer.data, bar: bar[0].style.width});
        if (!['SUCCESS', 'FAILURE', 'REVOKED'].includes(answer.data.task_status)) return;
        clearInterval(timer);
        window.say({end: answer.data.task_status});
      }).fail(refused);
    }, every);
  }

  $.ajax({
    url: tasks,
    method: 'POST',
    data: {server: 'http://overview.example', documentSetId: documentSet},
    headers: {Authorization: 'Basic ' + btoa(token + ':x-auth-token')},
  }).done((answer, _, xhr) => {
    window.say({begun: answer, status: xhr.status});
    follow(answer.data.task_id);
  }).fail(refused);
}

const browser = await chromium.launch({
  executablePath: told.chromium,
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
         '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
try {
  const page = await browser.newPage();
  page.setDefaultTimeout(told.timeout);
  let end;
  const ended = new Promise((resolve) => (end = resolve));
  await page.exposeFunction('say', (what) => { say(what); if (what.end) end(); });
  await page.goto(told.page);
  await page.addScriptTag({content: readFileSync(jquery, 'utf8')});
  await page.evaluate(useTasks, told);
  await ended;
} finally {
  await browser.close();
}
