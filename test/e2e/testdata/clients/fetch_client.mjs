// Does METHOD URL BODY triples with Node's own fetch; one JSON line for each.
import { createHash } from 'node:crypto';

const args = process.argv.slice(2);
while (args.length > 0) {
  const [method, url, body] = args.splice(0, 3);
  let out;
  try {
    const r = await fetch(url, { method, body: body || undefined, headers: body ? { 'Content-Type': 'application/json' } : {} });
    const data = Buffer.from(await r.arrayBuffer());
    out = {
      status: r.status, reason: r.headers.get('x-sallyport-reason') ?? '',
      sha256: createHash('sha256').update(data).digest('hex'), text: data.toString('utf8').slice(0, 4096),
    };
  } catch (e) {
    out = { error: `${e.message}: ${e.cause?.message}` };
  }
  console.log(JSON.stringify(out));
}
