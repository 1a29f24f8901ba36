"use strict";
// The page of a run that goes on loads itself again. What the reader has chosen, opened and scrolled to stays.
const key = `icr ${location.pathname}`;
const follow = document.getElementById("follow");
const idle = 5000;
let used = 0;

function folds() {
  return [...document.querySelectorAll("details")].map(fold => {
    const place = fold.closest("[id]");
    return [`${place.id} ${[...place.querySelectorAll("details")].indexOf(fold)}`, fold];
  });
}

function keep() {
  const passed = [...document.querySelectorAll("main [id]")].filter(place => place.getClientRects().length && place.getBoundingClientRect().top <= 1);
  const at = passed.pop();
  const state = {
    at: at ? at.id : "", top: at ? at.getBoundingClientRect().top : -scrollY,
    open: folds().filter(([, fold]) => fold.open).map(([name]) => name),
    chosen: [...document.querySelectorAll("select")].filter(select => !select.selectedOptions[0].defaultSelected).map(select => [select.id, select.value]),
    follows: !follow || follow.checked, focus: document.activeElement ? document.activeElement.id : "",
  };
  try { sessionStorage.setItem(key, JSON.stringify(state)); } catch (error) { /* this browser keeps nothing for files */ }
}

function restore() {
  let state = null;
  try { state = JSON.parse(sessionStorage.getItem(key)); sessionStorage.removeItem(key); } catch (error) { /* as above */ }
  if (!state) return;
  for (const [name, fold] of folds()) fold.open = state.open.includes(name);
  for (const [id, value] of state.chosen) {
    const select = document.getElementById(id);
    if (select && [...select.options].some(option => option.value === value)) select.value = value;
  }
  if (follow) follow.checked = state.follows;
  const focused = state.focus && document.getElementById(state.focus);
  if (focused) focused.focus({ preventScroll: true });
  const at = document.getElementById(state.at);
  history.scrollRestoration = "manual";
  scrollTo(0, scrollY + (at ? at.getBoundingClientRect().top : -scrollY) - state.top);
}

function loadAgain() {
  const busy = document.hidden || Date.now() - used < idle || !getSelection().isCollapsed;
  if (follow.checked && !busy) location.reload();
  else setTimeout(loadAgain, 1000);
}

// A running command sets the time of this file every half minute. Where a server names no time, it is that of loading.
function showSigns() {
  const last = new Date(document.lastModified);
  const two = number => String(number).padStart(2, "0");
  const day = `${last.getFullYear()}-${two(last.getMonth() + 1)}-${two(last.getDate())}`;
  const hour = `${two(last.getHours())}:${two(last.getMinutes())}:${two(last.getSeconds())}`;
  for (const time of document.querySelectorAll(".follow time")) time.textContent = `${day} ${hour}`;
  const ended = document.querySelector(".ended"), silent = (Date.now() - last) / 1000 > Number(document.body.dataset.silence);
  if (!ended) return;
  ended.hidden = !silent;
  document.querySelector(".alive").hidden = silent;
  document.querySelector(".sign").hidden = silent;
}

function nameFolder() {
  if (location.protocol !== "file:") return;
  const folder = decodeURIComponent(location.pathname).replace(/\/[^/]*$/, "");
  const typed = /^[\w@%+=:,./-]+$/.test(folder) ? folder : `'${folder.replaceAll("'", `'"'"'`)}'`;
  for (const command of document.querySelectorAll(".resume")) command.textContent = `icr iterate --run ${typed}`;
}

restore();
showSigns();
nameFolder();
addEventListener("pagehide", keep);
if (follow) {
  follow.closest("label").hidden = false;
  for (const kind of ["scroll", "keydown", "pointerdown", "wheel", "input"]) addEventListener(kind, () => { used = Date.now(); }, { passive: true });
  setTimeout(loadAgain, 1000 * Number(document.body.dataset.refresh));
}
