// The TypeScript SDK's client by streamable HTTP. Usage: mcp_client.mjs URL
import { createRequire } from 'node:module';
import { check, want } from './report.mjs';

const require = createRequire(`${process.env.NODE_PATH}/`);
const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');
const client = new Client({ name: 'peer', version: '1' });
const transport = new StreamableHTTPClientTransport(new URL(process.argv[2]));

await check('connect', () => client.connect(transport));
await check('list', async () => want((await client.listTools()).tools.length >= 3, true));
await check('call', async () => want((await client.callTool({ name: 'add', arguments: { a: 40, b: 2 } })).content[0].text, '42'));
await check('progress', async () => {
  const at = [];
  const r = await client.callTool({ name: 'count', arguments: { to: 5 } }, undefined, { onprogress: () => at.push(Date.now()) });
  want(r.content[0].text, 'counted');
  want(at.length, 5, 'notifications');
  if (at[4] - at[0] < 400) throw new Error(`five notifications within ${at[4] - at[0]} ms: they were held back`);
});
await check('big', async () => want((await client.callTool({ name: 'big', arguments: { size: 500000 } })).content[0].text.length, 500000));
await check('side-by-side', () => Promise.all(Array.from({ length: 20 }, async (_, i) => want((await client.callTool({ name: 'add', arguments: { a: i, b: 1 } })).content[0].text, String(i + 1)))));
await check('end-session', () => transport.terminateSession());
await check('close', () => client.close());
