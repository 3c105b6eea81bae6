/** `npm run web [-- --port 8080]`: shows the example page on localhost. */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { root } from './web_bundle.js';
import { serveFolders } from './web_server.js';

const { values } = parseArgs({ options: { port: { type: 'string', default: '8080' } } });
const port = Number(values.port);
if (!Number.isInteger(port) || port < 0 || port > 65535) {
  console.error(`--port: expected 0 to 65535, found ${values.port}`);
  process.exit(2);
}
try {
  const folders = { '/examples/web/': join(root, 'examples/web'), '/dist/': join(root, 'dist') };
  const server = await serveFolders(folders, { port, home: '/examples/web/' });
  console.log(`${server.address}/examples/web/ (Ctrl-C stops)`);
} catch (error) {
  if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error;
  console.error(`port ${port} is taken; choose another: npm run web -- --port 8081`);
  process.exit(1);
}
