// An MCP server by the TypeScript SDK, streamable HTTP with sessions.
// Usage: mcp_server.mjs ADDRESS PORT KEY CERTIFICATE
import { createRequire } from 'node:module';
import { createServer } from 'node:https';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';

const require = createRequire(`${process.env.NODE_PATH}/`);
const { McpServer } = require('@modelcontextprotocol/sdk/server/mcp.js');
const { StreamableHTTPServerTransport } = require('@modelcontextprotocol/sdk/server/streamableHttp.js');
const { z } = require('zod');
const [address, port, key, cert] = process.argv.slice(2);

function newServer() {
  const server = new McpServer({ name: 'peer', version: '1' });
  const text = (t) => ({ content: [{ type: 'text', text: t }] });
  server.registerTool('add', { inputSchema: { a: z.number(), b: z.number() } }, async ({ a, b }) => text(String(a + b)));
  server.registerTool('big', { inputSchema: { size: z.number() } }, async ({ size }) => text('x'.repeat(size)));
  server.registerTool('count', { inputSchema: { to: z.number() } }, async ({ to }, extra) => {
    for (let i = 1; i <= to; i++) {
      await extra.sendNotification({ method: 'notifications/progress', params: { progressToken: extra._meta?.progressToken, progress: i, total: to } });
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
    return text('counted');
  });
  return server;
}

const sessions = new Map();
const server = createServer({ key: readFileSync(key), cert: readFileSync(cert) }, async (req, res) => {
  let transport = sessions.get(req.headers['mcp-session-id']);
  if (!transport) {
    transport = new StreamableHTTPServerTransport({ sessionIdGenerator: () => randomUUID(), onsessioninitialized: (id) => sessions.set(id, transport) });
    await newServer().connect(transport);
  }
  await transport.handleRequest(req, res);
});
server.listen(Number(port), address, () => console.log('ready'));
