"use strict";
(function () {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  function stored() {
    try { return window.localStorage.getItem("report-theme"); } catch (error) { return null; }
  }
  function isDark() {
    const chosen = root.getAttribute("data-theme");
    return chosen === null ? prefersDark.matches : chosen === "dark";
  }
  function show() {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", isDark() ? "Switch to light colours" : "Switch to dark colours");
  }
  const before = stored();
  if (before === "dark" || before === "light") { root.setAttribute("data-theme", before); }
  button.hidden = false;
  button.addEventListener("click", function () {
    const chosen = isDark() ? "light" : "dark";
    root.setAttribute("data-theme", chosen);
    try { window.localStorage.setItem("report-theme", chosen); } catch (error) { /* private windows keep nothing */ }
    show();
  });
  prefersDark.addEventListener("change", show);
  show();
  const players = Array.from(document.querySelectorAll("audio"));
  players.forEach(function (player) {
    player.addEventListener("play", function () {
      players.forEach(function (other) { if (other !== player) { other.pause(); } });
    });
  });
})();
