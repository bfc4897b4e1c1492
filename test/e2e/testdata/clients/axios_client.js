// Does METHOD URL BODY triples with axios; one JSON line for each.
const { createHash } = require('node:crypto');
const axios = require('axios');

async function main() {
  const args = process.argv.slice(2);
  while (args.length > 0) {
    const [method, url, body] = args.splice(0, 3);
    let out;
    try {
      const r = await axios.request({
        method, url, data: body || undefined, headers: body ? { 'Content-Type': 'application/json' } : {},
        responseType: 'arraybuffer', validateStatus: null, timeout: 30000,
      });
      const data = Buffer.from(r.data);
      out = {
        status: r.status, reason: r.headers['x-sallyport-reason'] ?? '',
        sha256: createHash('sha256').update(data).digest('hex'), text: data.toString('utf8').slice(0, 4096),
      };
    } catch (e) {
      out = { error: e.message };
    }
    console.log(JSON.stringify(out));
  }
}
main();
