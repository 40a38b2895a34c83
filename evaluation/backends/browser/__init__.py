"""A real browser that reads answers: from the page to the presented frame. `backend` sends the requests of trials."""
