// client.mjs - a real client of POST /generate, which tells what it sees.
//
//   node client.mjs CLIENT BASE DOCUMENT_SET TOKEN
//
// Prints one JSON line a thing seen: {"record": {...}} at once when it comes, {"shown": "..."} for
// what LAT would show, and at the end {"end": "done"} or {"end": "failed", ...}.
import {JSONParser} from '@streamparser/json';
import {EventSource} from 'eventsource';
import oboe from 'oboe';
import {Readable} from 'node:stream';
import chain from 'stream-chain';
import {parser} from 'stream-json';
import {streamArray} from 'stream-json/streamers/stream-array.js';

const [name, base, documentSet, token] = process.argv.slice(2);
const say = (what) => process.stdout.write(JSON.stringify(what) + '\n');
const failed = (error) => say({end: 'failed', thrown: String(error?.thrown ?? error),
                               status: error?.statusCode, body: error?.body});

const fields = new URLSearchParams({server: 'http://overview.example', documentSetId: documentSet});
const request = {
  method: 'POST',
  headers: {
    Authorization: 'Basic ' + Buffer.from(token + ':x-auth-token').toString('base64'),
    'Content-Type': 'application/x-www-form-urlencoded',
  },
  body: fields.toString(),
};
const post = (accept) =>
  fetch(base + '/generate', {...request, headers: {...request.headers, ...(accept ? {Accept: accept} : {})}});

// Overview's oldest client; archived and still in use.
function withOboe(pattern) {
  oboe({...request, url: base + '/generate'})
    .node(pattern, (record) => say({record}))
    .done(() => say({end: 'done'}))
    .fail(failed);
}

// What LAT makes of the records: its rules for success, failure and waiting.
function lat() {
  let last = null;
  oboe({...request, url: base + '/generate'})
    .node('!.*', (record) => {
      last = record;
      if (record.n_ahead_in_queue > 0)
        say({shown: `Waiting for other ${record.n_ahead_in_queue} uploads`});
      if (record.error && record.fraction === 1 && record.returncode !== 0)
        say({shown: 'Error: ' + record.error});
    })
    .done(() => say({end: last === null || last.returncode === 0 ? 'success' : 'no success'}))
    .fail(failed);
}

async function streamparser() {
  const json = new JSONParser({paths: ['$.*'], keepStack: false});
  json.onValue = ({value}) => say({record: value});
  json.onEnd = () => say({end: 'done'});
  const response = await post();
  for await (const chunk of response.body) json.write(chunk);
}

async function streamJson() {
  const response = await post();
  const pipeline = chain([Readable.fromWeb(response.body), parser(), streamArray()]);
  pipeline.on('data', ({value}) => say({record: value}));
  pipeline.on('end', () => say({end: 'done'}));
  pipeline.on('error', failed);
}

async function ndjson() {
  const response = await post('application/x-ndjson');
  let held = '';
  for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (held + chunk).split('\n');
    held = lines.pop();
    for (const line of lines) if (line) say({record: JSON.parse(line)});
  }
  say({end: held === '' ? 'done' : 'failed'});
}

// Left to itself it comes back when the stream ends; only a 204 stops it.
function eventSource() {
  let connections = 0;
  const source = new EventSource(`${base}/generate?${fields}&apiToken=${token}`);
  source.onopen = () => connections++;
  source.onmessage = (event) => say({record: JSON.parse(event.data), id: event.lastEventId});
  source.onerror = (error) => {
    if (source.readyState === source.CLOSED) say({end: 'done', connections, status: error.code});
  };
}

const clients = {
  'oboe !.*': () => withOboe('!.*'),
  'oboe ![*]': () => withOboe('![*]'),
  lat,
  '@streamparser/json': streamparser,
  'stream-json': streamJson,
  fetch: ndjson,
  EventSource: eventSource,
};
await clients[name]();
