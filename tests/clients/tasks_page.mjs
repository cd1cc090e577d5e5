// tasks_page.mjs - a jQuery page in headless Chromium that uses the task-status API as its pages do;
// prints JSON lines.
//
//   node tasks_page.mjs '{"page": "http://...", "tasks": "http://.../api/tasks/", "every": 1000, ...}'
//       begins a task, polls it, says each status and what its progress bar shows, ends at SUCCESS
//       or FAILURE
import {runInPage, told} from './page.mjs';

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

await runInPage(useTasks, told, 'jquery/dist/jquery.min.js');
