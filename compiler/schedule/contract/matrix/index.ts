/** The form of contraction that uses matrix units: whether there is one, and what it costs. */
import type { Target } from '../../../kernel/target.js';
import type { Group } from '../../group.js';
import type { Contraction } from '../contraction.js';
import type { Schedule } from '../index.js';
import { candidatesFor } from './blocks.js';
import { alongOf, routeOf } from './loader.js';
import { productOf } from './operands.js';
import { lowerMatrix } from './tiles.js';
import { warpgroupSchedules } from './warpgroups.js';

/** All blocks that fit, for a contraction that a unit of the target multiplies as exactly as it must be. */
export function matrixSchedules(group: Group, target: Target, contraction: Contraction): Schedule[] {
  const product = productOf(group, target, contraction);
  if (!product) return [];
  const asynchronous = target.features.has('async_copy');
  const routes = {
    lhs: routeOf(product.lhs, contraction.k, asynchronous),
    rhs: routeOf(product.rhs, contraction.k, asynchronous),
  };
  const along = { lhs: alongOf(routes.lhs), rhs: alongOf(routes.rhs) };
  const copies = routes.lhs.kind === 'copy' || routes.rhs.kind === 'copy';
  const { unit } = product;
  const tiles = candidatesFor(contraction, product, along, copies, target).map(({ block, cost, workgroups }) => ({
    name: `matrix ${unit.a} ${block.blockM}×${block.blockN}×${block.blockK}`,
    cost,
    workgroups,
    lower: () => [lowerMatrix(group, target, contraction, { product, block, routes })],
  }));
  return [...warpgroupSchedules(group, target, contraction, product), ...tiles];
}
