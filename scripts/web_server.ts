/** A static file server for pages under test and examples: localhost only, read only, nothing outside its folders. */
import { createReadStream } from 'node:fs';
import { realpath, stat } from 'node:fs/promises';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join, sep } from 'node:path';

const types: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.json': 'application/json',
  '.map': 'application/json',
  '.png': 'image/png',
  '.jpg': 'image/jpeg',
  '.svg': 'image/svg+xml',
};

export interface WebServer {
  /** `http://localhost:8080`, without a slash at the end. */
  readonly address: string;
  close(): Promise<void>;
}

/**
 * @param folders URL prefixes, each with a slash at both ends, and the folders behind them.
 * @param home Where `/` leads.
 * @param port 0 takes any that is free.
 */
export async function serveFolders(
  folders: Readonly<Record<string, string>>,
  { port = 0, home }: { readonly port?: number; readonly home?: string } = {},
): Promise<WebServer> {
  const roots = new Map<string, string>();
  for (const [prefix, folder] of Object.entries(folders)) roots.set(prefix, await realpath(folder));
  const server = createServer((request, response) => {
    const answer = async () => {
      if (request.method !== 'GET' && request.method !== 'HEAD') return void plain(response, 405, 'method not allowed');
      const path = decodeURIComponent(new URL(request.url ?? '/', 'http://localhost').pathname);
      if (path === '/' && home !== undefined) return void response.writeHead(302, { location: home }).end();
      const file = await find(roots, path);
      if (file === undefined) return void plain(response, 404, 'not found');
      response.writeHead(200, {
        'content-type': types[extname(file.path)] ?? 'application/octet-stream',
        'content-length': file.bytes,
        'cache-control': 'no-store',
        'x-content-type-options': 'nosniff',
      });
      if (request.method === 'HEAD') return void response.end();
      createReadStream(file.path)
        .on('error', () => response.destroy())
        .pipe(response);
    };
    answer().catch(() => plain(response, 400, 'bad request'));
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', resolve);
  });
  return {
    address: `http://localhost:${(server.address() as AddressInfo).port}`,
    close: () =>
      new Promise((resolve, reject) => {
        server.close((error) => (error ? reject(error) : resolve()));
        server.closeAllConnections();
      }),
  };
}

async function find(
  roots: ReadonlyMap<string, string>,
  path: string,
): Promise<{ readonly path: string; readonly bytes: number } | undefined> {
  for (const [prefix, root] of roots) {
    if (!path.startsWith(prefix)) continue;
    const wanted = join(root, path.slice(prefix.length), path.endsWith('/') ? 'index.html' : '');
    const real = await realpath(wanted).catch(() => undefined);
    // Neither `..` nor links lead out of the folder.
    if (real === undefined || !real.startsWith(root + sep)) continue;
    const info = await stat(real);
    if (info.isFile()) return { path: real, bytes: info.size };
  }
  return undefined;
}

function plain(response: ServerResponse, status: number, text: string): void {
  if (response.headersSent) response.destroy();
  else response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8' }).end(`${text}\n`);
}
