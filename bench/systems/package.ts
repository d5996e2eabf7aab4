/** As seen from `dist/bench/systems/`. */
const LOADER = new URL('../../../bench/load.mjs', import.meta.url).href;

/**
 * A peer's package. Only `bench/node_modules` has it, and the rest of the repository is compiled and linted without:
 * so it is loaded when it is needed, and each adapter declares the few types of it that it uses.
 */
export async function loadPackage<T>(name: string): Promise<T> {
  const { load } = (await import(LOADER)) as { load: (name: string) => Promise<unknown> };
  return (await load(name)) as T;
}
