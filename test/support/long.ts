/**
 * `BATON_TEST_LONG=1 npm test` repeats all that `npm test` leaves out because it would find the same again: see "Long runs"
 * in CONTRIBUTING.md.
 */
export const LONG = process.env['BATON_TEST_LONG'] === '1';
