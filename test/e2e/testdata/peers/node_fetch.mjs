// Node's fetch and axios behind the gate. Usage: node_fetch.mjs BASE
import { createRequire } from 'node:module';
import { check, want, stream, sum } from './report.mjs';

const require = createRequire(`${process.env.NODE_PATH}/`);
const axios = require('axios');
const base = process.argv[2];

for (const n of [1, 70000, 3000000]) {
  await check(`fetch-down-${n}`, async () => want(sum(Buffer.from(await (await fetch(`${base}/bytes/${n}?chunked`)).arrayBuffer())), sum(stream(n))));
  await check(`fetch-up-${n}`, async () => want((await (await fetch(`${base}/sum`, { method: 'POST', body: stream(n) })).json()).sha256, sum(stream(n))));
  await check(`axios-down-${n}`, async () => want(sum((await axios.get(`${base}/bytes/${n}`, { responseType: 'arraybuffer' })).data), sum(stream(n))));
  await check(`axios-up-${n}`, async () => want((await axios.put(`${base}/sum`, stream(n))).data.sha256, sum(stream(n))));
}
await check('fetch-stream-up', async () => {
  const body = new ReadableStream({
    async start(c) {
      for (let i = 0; i < 3000000; i += 30000) c.enqueue(stream(3000000).subarray(i, i + 30000));
      c.close();
    },
  });
  want((await (await fetch(`${base}/sum`, { method: 'POST', body, duplex: 'half' })).json()).sha256, sum(stream(3000000)));
});
await check('fetch-stream-down', async () => {
  // A busy machine brings several at once now and then, who holds them back each time.
  const all = [];
  while (all.length < 3) {
    let chunks = 0;
    for await (const _ of (await fetch(`${base}/drip`)).body) chunks++;
    if (chunks >= 3) return;
    all.push(chunks);
  }
  throw new Error(`${all} chunks of 5: they were held back`);
});
await check('fetch-gzip', async () => want(sum(Buffer.from(await (await fetch(`${base}/gzip`)).arrayBuffer())), sum(stream(300000))));
await check('fetch-redirect', async () => want((await (await fetch(`${base}/redirect`)).json()).path, '/sum'));
await check('fetch-abort', async () => {
  const stop = new AbortController(), r = fetch(`${base}/wait`, { signal: stop.signal });
  setTimeout(() => stop.abort(), 50);
  await r.then(() => { throw new Error('answered'); }, (e) => want(e.name, 'AbortError'));
});
await check('fetch-cut', () => fetch(`${base}/cut`).then((r) => r.arrayBuffer()).then((b) => { throw new Error(`${b.byteLength} bytes looked whole`); }, () => {}));
await check('fetch-concurrent', () => Promise.all(Array.from({ length: 60 }, async (_, i) => {
  const n = [100, 20000, 100000, 700000][i % 4];
  want(sum(Buffer.from(await (await fetch(`${base}/bytes/${n}`)).arrayBuffer())), sum(stream(n)));
})));
await check('fetch-refused', async () => {
  const r = await fetch(`${base}/secret/x`, { method: 'POST', body: 'x' });
  want(`${r.status} ${(await r.json()).rule}`, '403 secrets');
});
await check('axios-refused', () => axios.get(`${base}/secret/x`).then(() => { throw new Error('answered'); }, (e) => want(e.response.data.reason, 'rule_denied')));
