// WebSockets of which it is known how many messages they carry. Prints a line
// for each. Usage: client.mjs BASE
import { createRequire } from 'node:module';

const require = createRequire(`${process.env.NODE_PATH}/`);
const WebSocket = require('ws');
const base = process.argv[2];
const once = (ws, event) => new Promise((resolve, reject) => { ws.once(event, (...args) => resolve(args)); ws.once('error', reject); });

async function run(name, options, talk) {
  try {
    const ws = new WebSocket(`${base}/${name}`, options);
    await once(ws, 'open');
    const closed = once(ws, 'close');
    await talk(ws, async (message, fragments = 1) => {
      const answer = once(ws, 'message');
      const size = Math.ceil(message.length / fragments);
      for (let i = 0; i < fragments; i++) ws.send(message.subarray ? message.subarray(i * size, (i + 1) * size) : message, { fin: i === fragments - 1 });
      const [data] = await answer;
      if (Buffer.compare(data, Buffer.from(message))) throw new Error('the echo differs');
    });
    const [code, reason] = await closed;
    console.log(name, 'closed', code, String(reason));
  } catch (e) {
    console.log(name, 'failed', e.message);
  }
}

const plain = { perMessageDeflate: false };
await run('text', plain, async (ws, echo) => { for (let i = 0; i < 10; i++) await echo(`message ${i} é`); ws.close(1000); });
await run('big', plain, async (ws, echo) => { await echo(Buffer.alloc(3 << 20, 'b')); await echo(Buffer.alloc(1500000, 'c'), 7); ws.close(3000, 'enough'); });
await run('deflate', {}, async (ws, echo) => {
  if (ws.extensions !== 'permessage-deflate') throw new Error(`extensions ${ws.extensions}`);
  for (let i = 0; i < 5; i++) await echo(Buffer.alloc(100000, 'd'), 3);
  ws.close(1000);
});
await run('ping', plain, async (ws, echo) => {
  const pong = once(ws, 'pong');
  ws.ping('are you there');
  if ((await pong)[0].toString() !== 'are you there') throw new Error('pong');
  await echo('one');
  ws.close();
});
await run('server-closes', plain, async (ws) => ws.send('close me'));
await run('server-dies', plain, async (ws) => ws.send('kill me'));
await run('client-dies', plain, async (ws, echo) => { await echo('one'); ws.terminate(); });
await run('forbidden/x', plain, async () => {});
