// Runs before the page is painted: the chosen theme must not flash. Without a choice the system's wins.
const chosen = localStorage.getItem("ics-theme");
if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
document.documentElement.classList.add("js");
