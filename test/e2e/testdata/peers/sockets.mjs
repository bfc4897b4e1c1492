// Node's ws behind the gate. Usage: sockets.mjs BASE
import { createRequire } from 'node:module';
import { check, want, stream, pause } from './report.mjs';

const require = createRequire(`${process.env.NODE_PATH}/`);
const WebSocket = require('ws');
const base = process.argv[2];

function open(path = '/socket', options = {}) {
  return new Promise((resolve, reject) => {
    const ws = new WebSocket(base + path, ['chat', 'echo'], options);
    ws.on('open', () => resolve(ws));
    ws.on('error', reject);
  });
}
const next = (ws, event) => new Promise((resolve, reject) => {
  ws.once(event, (...args) => resolve(args));
  if (event !== 'close') ws.once('close', () => reject(new Error('closed')));
});
async function echo(ws, message, options = {}) {
  const answer = next(ws, 'message');
  ws.send(message, options);
  const [data, binary] = await answer;
  want(binary, typeof message !== 'string', 'binary');
  want(Buffer.compare(data, Buffer.from(message)), 0, `${message.length} bytes came back otherwise:`);
}

const ws = await open();
await check('protocol', async () => want(ws.protocol, 'echo'));
await check('deflate', async () => want(ws.extensions, 'permessage-deflate'));
for (const n of [0, 1, 125, 126, 65535, 65536, 3000000]) await check(`message-${n}`, () => echo(ws, stream(n)));
await check('text', () => echo(ws, 'ünïcode 😈'));
await check('fragments', async () => {
  const answer = next(ws, 'message');
  for (let i = 0; i < 10; i++) ws.send(stream(70000), { fin: i === 9 });
  const [data] = await answer;
  want(data.length, 700000);
});
await check('ping', async () => {
  const pong = next(ws, 'pong');
  ws.ping('are you there');
  want((await pong)[0].toString(), 'are you there');
});
await check('pinged', async () => {
  const ping = next(ws, 'ping');
  ws.send('ping me');
  want((await ping)[0].toString(), 'hello');
});
await check('many', async () => {
  let n = 0;
  const all = new Promise((resolve) => ws.on('message', () => { if (++n === 2000) resolve(); }));
  for (let i = 0; i < 2000; i++) ws.send(stream(i));
  await all;
  ws.removeAllListeners('message');
});
await check('quiet', async () => {
  // A socket on which nothing is said stays open.
  await pause(1500);
  await echo(ws, 'still here');
});
await check('close', async () => {
  const closed = next(ws, 'close');
  ws.close(4001, 'enough');
  const [code, reason] = await closed;
  want(`${code} ${reason}`, '4001 enough');
});
await check('closed-by-server', async () => {
  const ws = await open();
  const closed = next(ws, 'close');
  ws.send('close me');
  const [code, reason] = await closed;
  want(`${code} ${reason}`, '4002 as you wish');
});
await check('terminated-by-server', async () => {
  const ws = await open();
  const closed = next(ws, 'close');
  ws.send('kill me');
  want((await closed)[0], 1006);
});
await check('server-first', async () => {
  const ws = new WebSocket(base + '/greet');
  const [data] = await next(ws, 'message');
  want(data.toString(), 'welcome');
  ws.terminate();
});
await check('without-deflate', async () => {
  const ws = await open('/socket', { perMessageDeflate: false });
  want(ws.extensions, '');
  await echo(ws, stream(3000000));
  ws.close();
});
await check('not-found', () => open('/none').then(() => { throw new Error('opened'); }, (e) => want(e.message, 'Unexpected server response: 404')));
await check('refused', () => open('/secret/socket').then(() => { throw new Error('opened'); }, (e) => want(e.message, 'Unexpected server response: 403')));
await check('side-by-side', () => Promise.all(Array.from({ length: 20 }, async (_, i) => {
  const ws = await open();
  for (let k = 0; k < 10; k++) await echo(ws, stream(1000 * i + k));
  ws.close();
})));
