/** `tutti devices`: what this machine has, why the rest is missing, and with --probe what each device really does. */
import type { DeviceInfo } from '../runtime/api.js';
import { devices } from '../runtime/device.js';
import { formatBytes, note, print, printJson, table } from './output.js';
import { type Probe, probeDevice } from './probe.js';
import type { Verb } from './verb.js';

interface Flags {
  readonly json?: boolean;
  readonly probe?: boolean;
}

export const devicesVerb: Verb = (program, wrap) => {
  program
    .command('devices')
    .description('list the devices of this machine, and why a backend is missing')
    .option('--json', 'print one JSON document')
    .option('--probe', 'measure copy GB/s, multiply-add GFLOP/s and facts about the numerics')
    .action(wrap((flags: Flags) => listDevices(flags)));
};

async function listDevices({ json, probe }: Flags): Promise<undefined> {
  const { devices: found, missing } = await devices();
  const probes = new Map<string, Probe>();
  if (probe) {
    for (const info of found) {
      if (!json) note(`probing ${info.id} …`);
      probes.set(info.id, await probeDevice(info.id));
    }
  }
  if (json) {
    const document = found.map((info) => {
      const measured = probes.get(info.id);
      return measured === undefined ? info : { ...info, probe: measured };
    });
    printJson({ devices: document, missing });
    return;
  }
  const rows = found.map((info) => [
    info.id,
    info.backend,
    info.name,
    kindOf(info),
    formatBytes(info.memoryBytes),
    info.driver,
  ]);
  if (rows.length > 0) print(table(['DEVICE', 'BACKEND', 'NAME', 'KIND', 'MEMORY', 'DRIVER'], rows));
  else print('No device can be used.');
  if (probes.size > 0) {
    print();
    print(
      table(
        ['DEVICE', 'COPY GB/s', 'GFLOP/s', 'NUMERICS'],
        [...probes].map(([id, { copyGBs, mulGFLOPs, numerics }]) => [
          id,
          copyGBs.toFixed(1),
          Object.entries(mulGFLOPs)
            .map(([dtype, rate]) => `${dtype} ${rate.toFixed(1)}`)
            .join(', '),
          Object.entries(numerics)
            .map(([fact, value]) => `${fact} ${value}`)
            .join(', '),
        ]),
        ['left', 'right'],
      ),
    );
  }
  for (const { backend, reason } of missing) print(`\n${backend} is missing: ${reason}`);
}

const kindOf = ({ backend, software, virtual }: DeviceInfo): string =>
  virtual ? 'virtual' : backend === 'cpu' ? 'cpu' : software ? 'gpu in software' : 'gpu';
