// Node's ws in streams of HTTP/2 (RFC 8441): /socket echoes.
// Usage: sockets_http2_server.mjs ADDRESS PORT KEY CERTIFICATE
import { createRequire } from 'node:module';
import { createSecureServer } from 'node:http2';
import { readFileSync } from 'node:fs';

const require = createRequire(`${process.env.NODE_PATH}/`);
const WebSocket = require('ws');
const [address, port, key, cert] = process.argv.slice(2);
const server = createSecureServer({ key: readFileSync(key), cert: readFileSync(cert), settings: { enableConnectProtocol: true } });
server.on('stream', (stream, headers) => {
  stream.on('error', () => {});
  if (headers[':method'] !== 'CONNECT' || headers[':protocol'] !== 'websocket' || headers[':path'] !== '/socket') {
    stream.respond({ ':status': 404 }, { endStream: true });
    return;
  }
  stream.respond({ ':status': 200 });
  const ws = new WebSocket(null, undefined, {});
  ws.setSocket(stream, Buffer.alloc(0), { maxPayload: 16 << 20, allowSynchronousEvents: true });
  ws.on('message', (data, binary) => ws.send(data, { binary }));
  ws.on('error', () => {});
});
server.listen(Number(port), address, () => console.log('ready'));
