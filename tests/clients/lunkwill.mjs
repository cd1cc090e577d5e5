// lunkwill.mjs - a client of the lunkwill conversation, written from its description alone.
//
//   node lunkwill.mjs BASE DOCUMENT_SET TOKEN [suggest|require]
//
// Prints one JSON line a thing seen: {"summary": {...}} for each summary, {"retry": "..."} when one
// could not be had, and at the end {"end": "response", status, type, body}, or {"end": WHY, ...}
// where it does not get so far: a status it does not know, or its deadline.
import {setTimeout as sleep} from 'node:timers/promises';

const MEDIA_TYPE = 'application/vnd.lunkwill.request-summary+json';
const UNDER_WAY = ['spooled', 'processing', 'buffering'];
const [base, documentSet, token, form = 'suggest'] = process.argv.slice(2);
const say = (what) => process.stdout.write(JSON.stringify(what) + '\n');
const isSummary = (response) =>
  (response.headers.get('Content-Type') ?? '').split(';')[0].trim() === MEDIA_TYPE;

async function sayResponse(response) {
  say({end: 'response', status: response.status, type: response.headers.get('Content-Type'),
       body: await response.text()});
}

// The next summary; a failed request for it is tried again, whatever was wrong with it.
async function nextSummary(last) {
  for (let delay = last.delay_ms;; delay = last.retry_ms) {
    await sleep(delay);
    try {
      const response = await fetch(`${base}/api/lunkwill/${last.id}/summary`);
      if (response.ok && isSummary(response))
        return await response.json();
      say({retry: `${response.status}`});
    } catch (error) {
      say({retry: String(error.cause?.code ?? error)});
    }
  }
}

async function converse(summary) {
  const began = performance.now();
  say({summary});
  while (UNDER_WAY.includes(summary.status)) {
    if (summary.deadline_ms !== undefined && performance.now() - began > summary.deadline_ms)
      return say({end: 'deadline'});
    summary = await nextSummary(summary);
    say({summary});
  }
  if (summary.status !== 'ready')
    return say({end: summary.status});
  await sayResponse(await fetch(`${base}/api/lunkwill/${summary.id}/response`));
}

const response = await fetch(`${base}/run`, {
  method: 'POST',
  headers: {
    Authorization: 'Basic ' + Buffer.from(token + ':x-auth-token').toString('base64'),
    'X-Lunkwill': form,
  },
  body: new URLSearchParams({server: 'http://overview.example', documentSetId: documentSet}),
});
await (isSummary(response) ? converse(await response.json()) : sayResponse(response));
