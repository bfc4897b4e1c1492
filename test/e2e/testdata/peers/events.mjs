// The npm package eventsource behind the gate. Usage: events.mjs BASE
import { createRequire } from 'node:module';
import { check, want, pause } from './report.mjs';

const require = createRequire(`${process.env.NODE_PATH}/`);
const { EventSource } = require('eventsource');
const base = process.argv[2];

function collect(url, count, options) {
  return new Promise((resolve, reject) => {
    const source = new EventSource(base + url, options), got = [];
    source.addEventListener('tick', (e) => {
      const [json, second] = e.data.split('\n');
      if (second !== 'second line') reject(new Error(`data ${e.data}`));
      got.push({ id: Number(e.lastEventId), late: Date.now() - JSON.parse(json).sent / 1000 });
      if (got.length === count) { source.close(); resolve(got); }
    });
    source.onerror = (e) => { if (source.readyState === EventSource.CLOSED) reject(Object.assign(new Error(`status ${e.code}: ${e.message}`), { code: e.code })); };
  });
}

await check('in-order', async () => {
  const got = await collect('/events?count=500&every=0', 500);
  got.forEach((e, i) => want(e.id, i + 1));
});
await check('at-once', async () => {
  // Each event is there long before the next one is sent. A busy machine is late at
  // times; what holds events back is so each time.
  const all = [];
  while (all.length < 3) {
    const got = await collect('/events?count=10&every=250', 10);
    const late = got.map((e) => e.late).sort((a, b) => a - b);
    if (late[5] <= 125) return;
    all.push(late[5]);
  }
  throw new Error(`half of the events came more than ${all} ms late`);
});
await check('again', async () => {
  // The stream ends every five events; the client comes back for the next.
  const got = await collect('/events?count=5&every=1&total=20', 20);
  got.forEach((e, i) => want(e.id, i + 1));
});
await check('side-by-side', () => Promise.all(Array.from({ length: 30 }, () => collect('/events?count=20&every=10', 20))));
await check('gone', async () => {
  // Who closes is gone: the origin learns of it, and others do not suffer.
  const sources = Array.from({ length: 10 }, () => new EventSource(base + '/events?count=1000&every=10'));
  await pause(300);
  sources.forEach((s) => s.close());
  await collect('/events?count=5&every=0', 5);
});
await check('refused', () => collect('/secret/events', 1).then(() => { throw new Error('opened'); }, (e) => want(e.code, 403)));
