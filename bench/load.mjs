/**
 * Imports a package of `bench/node_modules`. A file of its own that stays where it is: code in `dist/` is resolved from
 * there, and would find the packages of Baton only.
 *
 * @param {string} name
 */
export const load = (name) => import(name);
