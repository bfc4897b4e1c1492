// Node's http2 module behind the gate. Usage: node_http2.mjs BASE
import http2 from 'node:http2';
import { check, want, stream, sum } from './report.mjs';

const base = process.argv[2];
const session = http2.connect(base);
session.on('error', (e) => console.log(`not ok session: ${e.message}`));

function ask(headers, body) {
  return new Promise((resolve, reject) => {
    const req = session.request({ ':path': '/', ...headers }, { endStream: body === undefined });
    const chunks = [], informational = [];
    let head, trailers = {};
    req.on('headers', (h) => informational.push(h[':status']));
    req.on('response', (h) => { head = h; });
    req.on('trailers', (t) => { trailers = t; });
    req.on('data', (d) => chunks.push(d));
    req.on('error', reject);
    req.on('aborted', () => reject(new Error('aborted')));
    req.on('end', () => resolve({ head, trailers, informational, body: Buffer.concat(chunks) }));
    if (body !== undefined) req.end(body);
  });
}

for (const n of [0, 1, 70000, 3000000]) {
  await check(`down-${n}`, async () => want(sum((await ask({ ':path': `/bytes/${n}` })).body), sum(stream(n))));
  await check(`up-${n}`, async () => want(JSON.parse((await ask({ ':method': 'POST', ':path': '/sum' }, stream(n))).body).sha256, sum(stream(n))));
}
await check('echo', async () => {
  const r = await ask({ ':method': 'POST', ':path': '/echo' }, stream(3000000));
  want(sum(r.body), sum(stream(3000000)));
  want(r.trailers['x-sum'], sum(stream(3000000)), 'trailer');
});
await check('hints', async () => want((await ask({ ':path': '/hints' })).informational.join(), '103'));
await check('concurrent', () => Promise.all(Array.from({ length: 100 }, async (_, i) => {
  const n = [100, 20000, 100000, 700000][i % 4];
  want(sum((await ask({ ':path': `/bytes/${n}` })).body), sum(stream(n)));
})));
await check('cookies', async () => {
  const r = await ask({ ':path': '/headers', cookie: ['c=1', 'd=2'] });
  want(JSON.parse(r.body).cookie, 'c=1; d=2');
  want(r.head['set-cookie'].join(), 'a=1,b=2');
  want(r.head['alt-svc'], undefined);
});
await check('cut', () => ask({ ':path': '/cut' }).then((r) => { throw new Error(`${r.body.length} bytes looked whole`); }, () => {}));
await check('cancel', async () => {
  const req = session.request({ ':path': '/bytes/3000000' });
  await new Promise((resolve) => req.once('data', resolve));
  req.close(http2.constants.NGHTTP2_CANCEL);
  want((await ask({ ':path': '/bytes/100' })).body.length, 100);
});
await check('stalled', async () => {
  // One stream that nobody reads does not hold up the others.
  const req = session.request({ ':path': '/bytes/3000000' });
  await new Promise((resolve) => req.once('response', resolve));
  for (let i = 0; i < 10; i++) want((await ask({ ':path': '/bytes/300000' })).body.length, 300000);
  const rest = [];
  for await (const d of req) rest.push(d);
  want(sum(Buffer.concat(rest)), sum(stream(3000000)));
});
await check('ping', () => new Promise((resolve, reject) => session.ping((e) => (e ? reject(e) : resolve()))));
await check('refused', async () => {
  const r = await ask({ ':method': 'POST', ':path': '/secret/x' }, 'x');
  want(`${r.head[':status']} ${r.head['x-sallyport-reason']}`, '403 rule_denied');
});
await check('head', async () => want((await ask({ ':method': 'HEAD', ':path': '/bytes/1000' })).head['content-length'], '1000'));
session.close();
