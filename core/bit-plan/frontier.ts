// The frontier of size against loss: from everything at its smallest, always the upgrade that saves most loss for a
// byte. Every point on it is the optimum for its size; between two points an integer program may still do better than
// the smaller one, and solve.ts does.
import { type Choice, type ChoiceGroup, convexHull, priceBetween } from "./choices.ts";

/** Sum over all groups. */
export type FrontierPoint = {
  readonly bytes: number;
  readonly loss: number;
  /** Loss that a byte saved on the way to this point; infinite at the first. */
  readonly price: number;
};

type Upgrade = { readonly group: number; readonly from: Choice; readonly to: Choice; readonly price: number };

/** Upgrades of all groups, the dearest last; groups in their order where prices are equal. */
function listUpgrades(groups: readonly ChoiceGroup[]): readonly Upgrade[] {
  const upgrades = groups.flatMap(({ choices }, group) => {
    const hull = convexHull(choices);
    return hull.slice(1).map((to, index): Upgrade => {
      const from = hull[index] ?? to;
      return { group, from, to, price: priceBetween(from, to) };
    });
  });
  return upgrades.sort((a, b) => b.price - a.price || a.group - b.group || a.to.bytes - b.to.bytes);
}

/** Points by bytes upwards; the first is the smallest model there is, the last the one that loses least. */
export function traceFrontier(groups: readonly ChoiceGroup[]): readonly FrontierPoint[] {
  const smallest = groups.map(({ choices }) => convexHull(choices)[0]);
  let bytes = smallest.reduce((sum, choice) => sum + (choice?.bytes ?? 0), 0);
  let loss = smallest.reduce((sum, choice) => sum + (choice?.loss ?? 0), 0);
  const points: FrontierPoint[] = [{ bytes, loss, price: Number.POSITIVE_INFINITY }];
  for (const { from, to, price } of listUpgrades(groups)) {
    bytes += to.bytes - from.bytes;
    loss -= from.loss - to.loss;
    points.push({ bytes, loss, price });
  }
  return points;
}

/** Loss that one more byte saves where the frontier passes a budget: the budget's shadow price; 0 beyond its end. */
export function priceAt(frontier: readonly FrontierPoint[], budgetBytes: number): number {
  return frontier.find(({ bytes }) => bytes > budgetBytes)?.price ?? 0;
}
