// A WebSocket server by Node's ws that echoes, in the clear and over TLS.
// Usage: server.mjs ADDRESS PORT TLSPORT KEY CERTIFICATE
import { createRequire } from 'node:module';
import { createServer } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import { readFileSync } from 'node:fs';

const require = createRequire(`${process.env.NODE_PATH}/`);
const { WebSocketServer } = require('ws');
const [address, port, tlsPort, key, cert] = process.argv.slice(2);
for (const [server, at] of [[createServer(), port], [createSecureServer({ key: readFileSync(key), cert: readFileSync(cert) }), tlsPort]]) {
  const sockets = new WebSocketServer({ server, perMessageDeflate: { threshold: 0 }, maxPayload: 16 << 20 });
  sockets.on('connection', (ws) => {
    ws.on('message', (data, binary) => {
      if (!binary && data.toString() === 'close me') return ws.close(4002, 'as you wish');
      if (!binary && data.toString() === 'kill me') return ws.terminate();
      ws.send(data, { binary });
    });
    ws.on('error', () => {});
  });
  server.listen(Number(at), address);
}
