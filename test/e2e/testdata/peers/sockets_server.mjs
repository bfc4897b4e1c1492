// A WebSocket server by Node's ws: /socket echoes and obeys, /greet speaks
// first. Usage: sockets_server.mjs ADDRESS PORT KEY CERTIFICATE
import { createRequire } from 'node:module';
import { createServer } from 'node:https';
import { readFileSync } from 'node:fs';

const require = createRequire(`${process.env.NODE_PATH}/`);
const { WebSocketServer } = require('ws');
const [address, port, key, cert] = process.argv.slice(2);
const server = createServer({ key: readFileSync(key), cert: readFileSync(cert) }, (req, res) => { res.statusCode = 404; res.end(); });
const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: true, handleProtocols: (all) => (all.has('echo') ? 'echo' : false), maxPayload: 16 << 20 });
server.on('upgrade', (req, socket, head) => {
  if (req.url !== '/socket' && req.url !== '/greet') {
    socket.end('HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n');
    return;
  }
  sockets.handleUpgrade(req, socket, head, (ws) => {
    if (req.url === '/greet') ws.send('welcome');
    ws.on('message', (data, binary) => {
      switch (binary ? '' : data.toString()) {
        case 'ping me': ws.ping('hello'); return;
        case 'close me': ws.close(4002, 'as you wish'); return;
        case 'kill me': ws.terminate(); return;
      }
      ws.send(data, { binary });
    });
    ws.on('error', () => {});
  });
});
server.listen(Number(port), address, () => console.log('ready'));
