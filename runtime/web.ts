/** What the runtime does with files where there is no Node: models come over HTTP, and the files that they name too. */
import { TuttiError } from '../compiler/error.js';

/** As the ONNX frontend wants it. */
interface FetchedFile {
  /** Bytes. */
  readonly size: number;
  read(offset: number, length: number): Uint8Array;
}

/** @throws TuttiError E_IO */
export async function fetchFile(address: string | URL): Promise<Uint8Array> {
  try {
    const response = await fetch(address);
    if (!response.ok) throw new Error(`HTTP status ${response.status} ${response.statusText}`.trimEnd());
    return new Uint8Array(await response.arrayBuffer());
  } catch (cause) {
    const found = cause instanceof Error ? cause.message : String(cause);
    throw new TuttiError('E_IO', 'cannot be fetched', { subject: String(address), found, cause });
  }
}

/**
 * Imports a model whose tensors may lie in files beside it. The import reads at once and fetching takes time, so the
 * import starts again with each file that it turns out to need; hardly any model has more than one.
 * @param address Of the model: its files are looked for in the same folder, and only there.
 * @throws TuttiError E_EXTERNAL_DATA, and what `read` throws
 */
export async function withExternalFiles<T>(
  address: string | URL,
  read: (readExternal: (location: string) => FetchedFile) => T,
): Promise<T> {
  const files = new Map<string, FetchedFile>();
  for (;;) {
    let wanted: string | undefined;
    try {
      return read((location) => {
        const file = files.get(location);
        if (file !== undefined) return file;
        wanted = location;
        throw new TuttiError('E_EXTERNAL_DATA', 'not fetched yet', { subject: location });
      });
    } catch (error) {
      if (wanted === undefined) throw error;
    }
    files.set(wanted, await fetchExternal(address, wanted));
  }
}

/** `location` was checked by the import: relative and without `..`. */
async function fetchExternal(address: string | URL, location: string): Promise<FetchedFile> {
  try {
    const model = new URL(address, (globalThis as { readonly location?: { readonly href: string } }).location?.href);
    // Encoded, so that nothing in a name can be taken for a scheme, a query or another host.
    const bytes = await fetchFile(new URL(`./${location.split('/').map(encodeURIComponent).join('/')}`, model));
    return { size: bytes.byteLength, read: (offset, length) => bytes.subarray(offset, offset + length) };
  } catch (cause) {
    throw new TuttiError('E_EXTERNAL_DATA', 'file of external data cannot be fetched', {
      subject: location,
      found: cause instanceof Error ? cause.message : String(cause),
      remedy: 'Serve the data file beside the model.',
      cause,
    });
  }
}
