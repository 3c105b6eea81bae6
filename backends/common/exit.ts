/**
 * Devices to let go when the process exits without closing them: a driver that is torn down while threads of ours wait
 * in it may crash, and exit runs no finalizers.
 */

interface Abandonable {
  /** Waits for what runs on the device, though not for ever, and drops the rest. */
  abandon(): void;
}

const openDevices = new Set<Abandonable>();
let watching = false;

export function abandonAtExit(device: Abandonable): void {
  openDevices.add(device);
  if (watching) return;
  watching = true;
  process.once('exit', () => {
    for (const open of openDevices) open.abandon();
  });
}

/** The device has closed in order. */
export function closedInOrder(device: Abandonable): void {
  openDevices.delete(device);
}
