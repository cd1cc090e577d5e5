// websocket.mjs - WebSocket clients that are not ours: npm's ws, and headless Chromium's own.
//
//   node websocket.mjs '{"client": "ws" | "chromium", "url": "ws://...", "token": "...",
//                        "by": "authorization" | "subprotocol" | "bare subprotocol" | "message"
//                              | "json message" | "nothing", ...}'
//
// Prints one JSON line a thing seen: {"open": the subprotocol}, {"message": "..."} as it comes,
// {"refused": status} (ws only), and {"end": code, "reason": "...", "clean": ...}. ws also takes
// "closeAfter" (messages), "ping" (payload) and "send" (bytes of a message sent at the opening), and
// tells {"ping": n} and {"pong": "..."}. Chromium takes "page", where it opens the connection.
import WebSocket from 'ws';
import {runInPage, say, told} from './page.mjs';

// Runs in Node and in the page.
function protocolsOf({by, token}) {
  const offer = 'token.' + encodeURIComponent(token);
  return {subprotocol: ['workqueue', offer], 'bare subprotocol': [offer]}[by];
}

function firstOf({by, token}) {
  return {message: token, 'json message': JSON.stringify({apiToken: token})}[by];
}

function withWs() {
  const headers = {Authorization: 'Basic ' + Buffer.from(told.token + ':x-auth-token').toString('base64')};
  const socket = new WebSocket(told.url, protocolsOf(told) ?? [],
                               told.by === 'authorization' ? {headers} : {});
  let messages = 0, pings = 0;
  socket.on('open', () => {
    say({open: socket.protocol});
    const first = firstOf(told);
    if (first !== undefined) socket.send(first);
    if (told.ping !== undefined) socket.ping(told.ping);
    if (told.send !== undefined) socket.send('x'.repeat(told.send));
  });
  socket.on('message', (data, isBinary) => {
    say({message: data.toString(), isBinary});
    if (++messages === told.closeAfter) socket.close(4000, 'enough');
  });
  socket.on('ping', () => say({ping: ++pings}));
  socket.on('pong', (data) => say({pong: data.toString()}));
  socket.on('unexpected-response', (_, response) => {
    say({refused: response.statusCode});
    process.exit();
  });
  socket.on('error', (error) => say({error: String(error)}));
  socket.on('close', (code, reason) => say({end: code, reason: reason.toString()}));
}

// Runs in the page.
function watch({url, protocols, first}) {
  const socket = new WebSocket(url, protocols ?? []);
  socket.onopen = () => {
    window.say({open: socket.protocol});
    if (first) socket.send(first);
  };
  socket.onmessage = ({data}) => window.say({message: data});
  socket.onclose = ({code, reason, wasClean}) => window.say({end: code, reason, clean: wasClean});
}

const inPage = {url: told.url, protocols: protocolsOf(told), first: firstOf(told)};
await (told.client === 'ws' ? withWs() : runInPage(watch, inPage));
