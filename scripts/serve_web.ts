/** `npm run web [-- --port 8080]`: shows the example page on localhost. */
import { join } from 'node:path';
import { Command } from 'commander';
import { print } from '../cli/output.js';
import { runProgram } from '../cli/program.js';
import { TuttiError } from '../compiler/error.js';
import { root } from './web_bundle.js';
import { serveFolders } from './web_server.js';

const mostPorts = 65535;

function portFlag(text: string): number {
  const port = Number(text);
  if (text.trim() !== '' && Number.isInteger(port) && port >= 0 && port <= mostPorts) return port;
  throw new TuttiError('E_USAGE', 'bad value', { subject: '--port', expected: `0 to ${mostPorts}`, found: text });
}

async function serve({ port }: { readonly port: number }): Promise<void> {
  try {
    const folders = { '/examples/web/': join(root, 'examples/web'), '/dist/': join(root, 'dist') };
    const server = await serveFolders(folders, { port, home: '/examples/web/' });
    print(`${server.address}/examples/web/ (Ctrl-C stops)`);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw cause;
    throw new TuttiError('E_USAGE', 'the port is taken', {
      subject: '--port',
      found: String(port),
      remedy: 'Choose another: npm run web -- --port 8081',
      cause,
    });
  }
}

const program = new Command('web')
  .description('Shows the example page on localhost.')
  .option('--port <number>', '0 takes any that is free', portFlag, 8080)
  .action(serve);
// The server keeps the process alive.
process.exitCode = await runProgram(program);
