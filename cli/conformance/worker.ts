/** The process in which cases run, one after the other: what crashes or hangs takes nobody along. */
import { type DeviceHandle, openDevice } from '../../runtime/device.js';
import { type CaseJob, type CaseOptions, runCase } from './case.js';

export interface WorkerStart {
  readonly kind: 'start';
  readonly device: string | undefined;
  readonly options: CaseOptions;
}
export interface WorkerCase {
  readonly kind: 'case';
  readonly job: CaseJob;
}

/** Beyond this a fresh process is cheaper than what has piled up. */
const maximumBytes = 2 * 2 ** 30;

let handle: DeviceHandle | undefined;
let options: CaseOptions = {};

const send = (message: unknown): Promise<void> =>
  new Promise((resolve) => process.send?.(message, undefined, undefined, () => resolve()));

async function receive(message: WorkerStart | WorkerCase): Promise<void> {
  if (message.kind === 'start') {
    options = message.options;
    try {
      handle = await openDevice(message.device);
      await send({ kind: 'ready', device: handle.device.info.id });
    } catch (error) {
      const { message: text, code } = error as Error & { code?: string };
      await send({ kind: 'unusable', message: text, code });
    }
    return;
  }
  if (handle === undefined) throw new Error('a case before the device is open');
  const result = await runCase(message.job, handle, options);
  const spent = result.code === 'E_DEVICE_LOST' || process.memoryUsage.rss() > maximumBytes;
  await send({ kind: 'result', result, spent });
}

process.on('message', (message: WorkerStart | WorkerCase) => {
  receive(message).catch((error) => {
    console.error(error);
    process.exit(70);
  });
});
// Nobody listens any more: the parent is gone.
process.on('disconnect', () => process.exit(0));
