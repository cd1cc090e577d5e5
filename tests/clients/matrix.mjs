// matrix.mjs - clients in JavaScript that do what their users do, once, and tell what came of it.
//
//   node matrix.mjs CLIENT BASE DOCUMENT_SET TOKEN
//
// Prints one JSON line: {"status": N, "body": TEXT} of clients that poll, {"record": {...}} with the
// last record of those that read events, or {"thrown": TEXT}.
import {fetchEventSource} from '@microsoft/fetch-event-source';
import axios from 'axios';
import {EventSourcePolyfill} from 'event-source-polyfill';
import {EventSource} from 'eventsource';
import got from 'got';
import oboe from 'oboe';
import ReconnectingWebSocket from 'reconnecting-websocket';
import {request as undiciRequest, fetch as undiciFetch} from 'undici';
import WebSocket from 'ws';

const [name, base, documentSet, token] = process.argv.slice(2);
const fields = {server: 'http://overview.example', documentSetId: documentSet, apiToken: token};
const form = new URLSearchParams(fields).toString();
const type = {'Content-Type': 'application/x-www-form-urlencoded'};
const say = (what) => { process.stdout.write(JSON.stringify(what) + '\n'); process.exit(0); };

// An event source is closed at `end`; it comes back by itself when the stream ends without.
const events = (source) => {
  let record = null;
  source.onmessage = (event) => { record = JSON.parse(event.data); };
  source.addEventListener('end', () => { source.close(); say({record}); });
};

const clients = {
  async got() {
    const answer = await got.post(base + '/start_work', {form: fields, throwHttpErrors: false});
    return {status: answer.statusCode, body: answer.body};
  },
  async axios() {
    const answer = await axios.post(base + '/start_work', form,
                                    {headers: type, validateStatus: () => true, responseType: 'text'});
    return {status: answer.status, body: String(answer.data)};
  },
  async undici() {
    const answer = await undiciFetch(base + '/start_work', {method: 'POST', body: form, headers: type});
    return {status: answer.status, body: await answer.text()};
  },
  async fetch() {
    const answer = await fetch(base + '/start_work', {method: 'POST', body: form, headers: type});
    return {status: answer.status, body: await answer.text()};
  },
  async 'undici-request'() { // follows nothing by itself: it does as Retry-After says
    let answer = await undiciRequest(base + '/start_work', {method: 'POST', body: form, headers: type});
    while (answer.statusCode === 303) {
      await answer.body.dump();
      await new Promise((done) => setTimeout(done, 1000 * answer.headers['retry-after']));
      answer = await undiciRequest(new URL(answer.headers.location, base));
    }
    return {status: answer.statusCode, body: await answer.body.text()};
  },
  oboe() {
    let record = null;
    oboe({method: 'POST', url: base + '/generate', body: form, headers: type})
      .node('![*]', (one) => { record = one; })
      .done(() => say({record}))
      .fail((error) => say({thrown: String(error.thrown ?? error.statusCode)}));
  },
  eventsource() {
    events(new EventSource(base + '/generate?' + form));
  },
  'event-source-polyfill'() {
    events(new EventSourcePolyfill(base + '/generate?' + form, {heartbeatTimeout: 120000}));
  },
  async 'fetch-event-source'() {
    globalThis.window = globalThis; // what it needs of a browser
    globalThis.document = {hidden: false, addEventListener() {}, removeEventListener() {}};
    let record = null, ended = false;
    class Again extends Error {}
    await fetchEventSource(base + '/generate', {
      method: 'POST', body: form, headers: type, fetch,
      onmessage(event) {
        if (event.event === 'end') ended = true;
        else if (event.data) record = JSON.parse(event.data);
      },
      onclose() { if (!ended) throw new Again('the stream ended early'); },
      onerror() { return 200; },
      async onopen(answer) { if (answer.status === 204) ended = true; },
    });
    return {record};
  },
  'reconnecting-websocket'() {
    let record = null;
    const url = base.replace('http', 'ws') + '/generate?' + form;
    const socket = new ReconnectingWebSocket(url, [], {WebSocket, minReconnectionDelay: 100,
                                                       maxReconnectionDelay: 500});
    socket.onmessage = (event) => { record = JSON.parse(event.data); };
    socket.onclose = (event) => { if (event.code === 1000) { socket.close(); say({record}); } };
  },
};

process.on('uncaughtException', (error) => say({thrown: String(error)}));
try {
  const told = await clients[name]();
  if (told) say(told);
} catch (error) {
  say({thrown: String(error?.cause ?? error)});
}
