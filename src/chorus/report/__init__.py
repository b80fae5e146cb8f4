"""Tables, plots and the HTML report: plain values in, files out."""
